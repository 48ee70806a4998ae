"""Pieces have the ids of the rendered text, whatever a tokenizer does at spaces and tokens."""

import json
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from modeling.conversation_templates import (
    ImagePiece,
    Piece,
    SpecialPiece,
    TextPiece,
    TokenPiece,
)
from modeling.prompt import ImageTokens, PromptTokeniser, SpecialIds
from modeling.tiny import TOKENIZER_TEXT, train_tokenizer
from tests.modeling.sentencepiece_style import BOS_ID, EOS_ID, sentencepiece_style

MARKS = ("<image>", "<turn>", "<end>")
SPACE = "▁"


def metaspace(scheme: str) -> Tokenizer:
    tokenizer = sentencepiece_style(MARKS)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme)  # type: ignore[arg-type]
    return tokenizer


def legacy() -> Tokenizer:
    """As LLaMA's first conversion: a normaliser that writes a space before each stretch."""
    tokenizer = sentencepiece_style(MARKS)
    tokenizer.pre_tokenizer = None  # type: ignore[assignment]  # its setter takes None
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    return tokenizer


def with_flags(tokenizer: Tokenizer, **flags: bool) -> Tokenizer:
    """Special tokens that are looked for after normalising, or swallow the space beside them."""
    state = json.loads(tokenizer.to_str())
    for token in state["added_tokens"]:
        token.update(flags)
    return Tokenizer.from_str(json.dumps(state))


def normalising() -> Tokenizer:
    tokenizer = metaspace("always")
    tokenizer.normalizer = normalizers.NFKC()
    return with_flags(tokenizer, normalized=True)


def byte_level(*, adds_space: bool) -> Tokenizer:
    tokenizer = Tokenizer.from_str(train_tokenizer(TOKENIZER_TEXT, 512).backend_tokenizer.to_str())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=adds_space)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in MARKS])
    return tokenizer


def unigram() -> Tokenizer:
    """Its vocabulary holds the special tokens as words."""
    letters = [(chr(code), -5.0) for code in range(32, 127)]
    words = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), (SPACE, -3.0), ("the", -3.0)]
    tokenizer = Tokenizer(models.Unigram([*words, *letters], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE)
    tokenizer.decoder = decoders.Metaspace(SPACE)
    names = ("<unk>", "<s>", "</s>", *MARKS)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in names])
    return tokenizer


TOKENIZERS = {
    "metaspace always": metaspace("always"),
    "metaspace first": metaspace("first"),
    "metaspace never": metaspace("never"),
    "legacy": legacy(),
    "legacy, tokens swallow spaces": with_flags(legacy(), lstrip=True, rstrip=True),
    "legacy, tokens swallow spaces before": with_flags(legacy(), lstrip=True),
    "tokens after normalising": normalising(),
    "byte level": byte_level(adds_space=False),
    "byte level with a space": byte_level(adds_space=True),
    "unigram": unigram(),
}
TEXTS = st.text(alphabet=" \n\t.aehtT:#é\N{CJK UNIFIED IDEOGRAPH-4E2D}", max_size=8)
PIECES = st.lists(
    TEXTS.map(TextPiece)
    | st.sampled_from([SpecialPiece("eos"), ImagePiece()])
    | st.sampled_from(MARKS[1:]).map(str),
    max_size=8,
)


def written(tokenizer: Tokenizer, piece: Piece) -> str:
    match piece:
        case TextPiece(text=text):
            return text
        case ImagePiece():
            return MARKS[0] * 3
        case SpecialPiece(token="bos"):
            return _name(tokenizer, BOS_ID)
        case SpecialPiece():
            return _name(tokenizer, EOS_ID)
        case TokenPiece(token_id=token_id):
            return _name(tokenizer, token_id)


def _name(tokenizer: Tokenizer, token_id: int) -> str:
    name = tokenizer.id_to_token(token_id)
    assert name is not None
    return name


def tokeniser_of(tokenizer: Tokenizer) -> PromptTokeniser:
    image_id = tokenizer.token_to_id(MARKS[0])
    assert image_id is not None
    return PromptTokeniser(tokenizer, SpecialIds(BOS_ID, EOS_ID), ImageTokens.of(image_id, 3))


TOKENISERS = {name: tokeniser_of(tokenizer) for name, tokenizer in TOKENIZERS.items()}


@pytest.mark.parametrize("name", TOKENIZERS)
@given(begins=st.booleans(), drawn=PIECES)
@example(begins=True, drawn=[TextPiece("the heat"), SpecialPiece("eos"), TextPiece(" the")])
@example(begins=False, drawn=[TextPiece("the"), ImagePiece(), TextPiece("the"), ImagePiece()])
@settings(max_examples=150, deadline=None)
def test_pieces_have_the_ids_of_the_rendered_text(
    name: str, *, begins: bool, drawn: Sequence[TextPiece | SpecialPiece | ImagePiece | str]
):
    tokenizer, tokeniser = TOKENIZERS[name], TOKENISERS[name]
    pieces: list[Piece] = [SpecialPiece("bos")] if begins else []
    for each in drawn:
        if isinstance(each, str):
            token_id = tokenizer.token_to_id(each)
            assert token_id is not None
            pieces.append(TokenPiece(token_id))
        else:
            pieces.append(each)

    prompt = tokeniser.tokenise(pieces)

    whole = "".join(written(tokenizer, piece) for piece in pieces)
    assert prompt.token_ids == tokenizer.encode(whole, add_special_tokens=False).ids
    assert len(prompt.image_spans) == sum(isinstance(p, ImagePiece) for p in pieces)
    image_id = tokenizer.token_to_id(MARKS[0])
    for start, end in prompt.image_spans:
        assert prompt.token_ids[start:end] == [image_id] * 3


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("literal", ["</s>", "<s>", "<image>", "<turn>", "a<image>b </s>"])
def test_what_somebody_types_is_never_a_special_token(name: str, literal: str):
    tokenizer = TOKENIZERS[name]

    prompt = TOKENISERS[name].tokenise([SpecialPiece("bos"), TextPiece(f"see {literal} there")])

    special = {i for i, t in tokenizer.get_added_tokens_decoder().items() if t.content != "<unk>"}
    assert special.isdisjoint(prompt.token_ids[1:] if prompt.token_ids[0] == BOS_ID else [])
    decoded = tokenizer.decode(prompt.token_ids, skip_special_tokens=False).replace(" ", "")
    assert literal.replace(" ", "") in decoded


def test_an_image_token_that_is_not_marked_special_is_text_where_somebody_types_it():
    tokenizer = sentencepiece_style(MARKS[1:])
    tokenizer.add_tokens([AddedToken(MARKS[0], normalized=False)])
    image_id = tokenizer.token_to_id(MARKS[0])
    assert image_id in tokenizer.encode(f"see {MARKS[0]}").ids

    prompt = tokeniser_of(tokenizer).tokenise([TextPiece(f"see {MARKS[0]}"), ImagePiece()])

    assert prompt.token_ids.count(image_id) == 3
    assert prompt.token_ids[-3:] == [image_id] * 3


def test_a_token_that_the_tokenizer_adds_by_itself_leaves_the_first_text_first():
    tokeniser = TOKENISERS["metaspace first"]
    tokenizer = TOKENIZERS["metaspace first"]

    added = tokeniser.tokenise([TokenPiece(BOS_ID, is_in_text=False), TextPiece("the heart")])
    written_ = tokeniser.tokenise([TokenPiece(BOS_ID), TextPiece("the heart")])

    assert added.token_ids == [BOS_ID, *tokenizer.encode("the heart").ids]
    assert written_.token_ids != added.token_ids


def test_the_mask_of_a_token_that_swallows_spaces_is_its_own():
    tokeniser = TOKENISERS["legacy, tokens swallow spaces"]

    prompt = tokeniser.tokenise([TextPiece("the  ", is_trained=True), SpecialPiece("eos")])

    assert prompt.token_ids[-1] == EOS_ID
    assert not prompt.is_trained[-1]
    assert all(prompt.is_trained[:-1])
