from dataclasses import replace

import pytest

from modeling.conversations import (
    Conversation,
    ConversationError,
    ImageSlot,
    Turn,
    drop_leading_answer,
    parse_item,
)

_QUESTION = {"from": "human", "value": "<image>\nWhat is it?"}
_ANSWER = {"from": "gpt", "value": "A lung."}
_LEADING = {"from": "gpt", "value": "Ask me."}


@pytest.mark.parametrize("key", ["conversations", "conversatons"])
def test_both_spellings_of_the_key_are_read(key: str):
    found = parse_item({"id": 1, key: [_QUESTION, _ANSWER]})

    assert found == Conversation(
        (Turn("user", (ImageSlot(), "\nWhat is it?")), Turn("assistant", ("A lung.",)))
    )


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("<image>\nQ", (ImageSlot(), "\nQ")),
        ("Q\n<image>", ("Q\n", ImageSlot())),
        ("<image><image> Q", (ImageSlot(), ImageSlot(), " Q")),
        ("Q", ("Q",)),
        (7, ("7",)),
        ("", ()),
    ],
)
def test_images_stand_where_their_markers_do_and_numbers_are_texts(value: object, parts: object):
    item = {"id": "a", "conversations": [{"from": "human", "value": value}]}

    assert parse_item(item).turns[0].parts == parts


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"id": "x"}, "item 'x' has no turns"),
        ({"id": "x", "conversations": []}, "item 'x' has no turns"),
        ({"id": "x", "conversations": {"from": "human"}}, "has no turns"),
        ({"id": 3, "conversations": ["hello"]}, "item 3, turn 0 is no object"),
        ({"id": 3, "conversations": [{"from": "bot", "value": "x"}]}, "'human' or 'gpt' speak"),
        ({"id": 3, "conversations": [{"from": "human", "value": None}]}, "turn 0 has no text"),
        ({"id": 3, "conversations": [{"from": "human", "value": True}]}, "turn 0 has no text"),
        (
            {"id": 3, "conversations": [_QUESTION, {"from": "gpt", "value": "<image>"}]},
            "turn 1 is an answer with <image>",
        ),
    ],
)
def test_an_item_of_another_shape_is_refused_with_its_place(item: dict[str, object], words: str):
    with pytest.raises(ConversationError, match=words):
        parse_item(item)


def test_an_answer_in_front_is_dropped_when_asked_and_returned():
    read = parse_item({"id": 1, "conversations": [_LEADING, _QUESTION, _ANSWER]})

    kept, dropped = drop_leading_answer(replace(read, system="Be brief."))

    assert dropped == Turn("assistant", ("Ask me.",)) == read.turns[0]
    assert kept == Conversation(read.turns[1:], "Be brief.")
    assert kept.turns == parse_item({"id": 1, "conversations": [_QUESTION, _ANSWER]}).turns


def test_a_conversation_that_a_human_begins_loses_nothing():
    read = parse_item({"id": 1, "conversations": [_QUESTION, _ANSWER]})

    assert drop_leading_answer(read) == (read, None)


def test_only_the_first_answer_is_dropped():
    read = parse_item({"id": 1, "conversations": [_LEADING, _LEADING, _QUESTION]})

    kept, _ = drop_leading_answer(read)

    assert [turn.role for turn in kept.turns] == ["assistant", "user"]


def test_an_answer_alone_is_refused_and_not_an_empty_conversation():
    with pytest.raises(ConversationError, match="turn 0 is the assistant's and the only one"):
        drop_leading_answer(parse_item({"id": 1, "conversations": [_LEADING]}))
