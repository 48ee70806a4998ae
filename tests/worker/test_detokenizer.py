from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from modeling.tiny import TOKENIZER_TEXT, train_tokenizer
from services.worker.engines.answer import Answer
from services.worker.engines.detokenizer import IncrementalDetokenizer

TOKENIZER = train_tokenizer(TOKENIZER_TEXT, vocab_size=512)
EOS = frozenset({2})
ids = st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=40)


def decode(token_ids: Sequence[int]) -> str:
    return str(TOKENIZER.decode(list(token_ids), skip_special_tokens=True))


def encode(text: str) -> list[int]:
    """Tokenise what a model may write: a special token's name is ordinary text here."""
    return list(TOKENIZER.encode(text, add_special_tokens=False, split_special_tokens=True))


@settings(max_examples=300)
@given(ids)
def test_any_tokens_give_the_tokenizers_own_decoding(token_ids: list[int]) -> None:
    detokenizer = IncrementalDetokenizer(decode)
    released = "".join(map(detokenizer.push, token_ids)) + detokenizer.flush()
    assert released == decode(token_ids)


@given(st.text(max_size=30))
@example("a <s></s>")
def test_no_character_is_shown_in_halves(text: str) -> None:
    detokenizer = IncrementalDetokenizer(decode)
    shown = ""
    for token_id in encode(text):
        shown += detokenizer.push(token_id)
        assert text.startswith(shown)
    assert shown + detokenizer.flush() == text


def test_an_emoji_of_four_bytes_comes_with_its_last_token() -> None:
    detokenizer = IncrementalDetokenizer(decode)
    token_ids = encode("\N{FACE WITH TEARS OF JOY}")
    assert len(token_ids) == 4
    assert [detokenizer.push(i) for i in token_ids] == ["", "", "", "\N{FACE WITH TEARS OF JOY}"]


def test_a_sentencepiece_decoder_keeps_the_spaces_between_words() -> None:
    pieces = ["<unk>", "▁the", "▁left", "▁", "lung", ".", "<0xC3>", "<0xA9>", "▁▁"]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    token_ids = [1, 2, 3, 4, 5, 6, 7, 8, 4, 1, 1]
    detokenizer = IncrementalDetokenizer(lambda some: tokenizer.decode(list(some)))
    texts = [detokenizer.push(i) for i in token_ids]
    assert "".join(texts) == tokenizer.decode(token_ids) == "the left lung.é  lung the the"
    assert texts[5:7] == ["", "é"]


@pytest.mark.parametrize("stops", [(), ("né",), ("e\N{HEAVY BLACK HEART}", "zz")])
@pytest.mark.parametrize("end", [[], [2]])
def test_an_answer_continues_from_every_token(stops: tuple[str, ...], end: list[int]) -> None:
    token_ids = encode("The né\N{HEAVY BLACK HEART} heart: größe\N{HEAVY BLACK HEART} zzz") + end
    whole = Answer(decode, stops, EOS, len(token_ids))
    texts = []
    for token_id in token_ids:
        texts.append(whole.push(token_id))
        if whole.finish_reason is not None:
            break
    for taken in range(len(texts) + 1):
        resumed = Answer(decode, stops, EOS, len(token_ids))
        resumed.replay(token_ids[:taken])
        rest = []
        for token_id in token_ids[taken:]:
            if resumed.finish_reason is not None:
                break
            rest.append(resumed.push(token_id))
        assert rest == texts[taken:]
        assert resumed.finish_reason == whole.finish_reason
        assert resumed.token_ids == whole.token_ids


@given(ids, st.lists(st.text("abe n", min_size=1, max_size=4), max_size=2), st.integers(1, 30))
def test_an_answer_is_its_decoding_cut_at_the_stop_string(
    token_ids: list[int], stops: list[str], max_tokens: int
) -> None:
    answer = Answer(decode, stops, EOS, max_tokens)
    text = ""
    for token_id in token_ids:
        text += answer.push(token_id)
        if answer.finish_reason is not None:
            break
    if answer.finish_reason is None:
        return
    own = decode(answer.token_ids)
    assert own.startswith(text)
    assert not any(stop in text for stop in stops)
    if text != own:
        assert answer.finish_reason == "stop"
        assert any(own[len(text) :].startswith(stop) for stop in stops)


def test_an_unfinished_character_is_shown_at_the_end() -> None:
    token_ids = encode("a\N{HEAVY BLACK HEART}")[:-1]
    answer = Answer(decode, (), EOS, len(token_ids))
    assert "".join(map(answer.push, token_ids)) == "a\N{REPLACEMENT CHARACTER}"
    assert answer.finish_reason == "length"


def test_replay_ends_where_the_answer_ended() -> None:
    answer = Answer(decode, (), EOS, 100)
    answer.replay([*encode("done"), 2])
    assert answer.finish_reason == "stop"
