from collections.abc import Sequence

from services.worker.engines.answer import Answer

EOS = 0


def decode(token_ids: Sequence[int]) -> str:
    return "".join(chr(token_id) for token_id in token_ids)


def answer(stops: Sequence[str], min_tokens: int, max_tokens: int = 99) -> Answer:
    return Answer(decode, stops, frozenset({EOS}), max_tokens, min_tokens)


def say(to: Answer, text: str) -> str:
    released = ""
    for letter in text:
        if to.finish_reason is None:
            released += to.push(ord(letter))
    return released


def test_no_stop_string_ends_an_answer_before_its_least_tokens() -> None:
    longer = answer(["b"], min_tokens=4)
    assert say(longer, "abcdebf") == "abcde"
    assert longer.finish_reason == "stop"
    assert len(longer.token_ids) == 6


def test_a_stop_string_that_begins_in_the_least_tokens_is_text() -> None:
    longer = answer(["de"], min_tokens=4)
    assert say(longer, "abcdefdex") == "abcdef"
    assert longer.finish_reason == "stop"


def test_resumed_tokens_count() -> None:
    resumed = answer(["b"], min_tokens=4)
    resumed.replay([ord(letter) for letter in "abcde"])
    assert resumed.finish_reason is None
    assert say(resumed, "fbx") == "f"
    assert resumed.finish_reason == "stop"


def test_an_end_that_was_chosen_all_the_same_is_the_end() -> None:
    guided = answer(["b"], min_tokens=4)
    say(guided, "ab")
    guided.push(EOS)
    assert guided.finish_reason == "stop"
    assert len(guided.token_ids) == 3
