"""Questions have right answers, and cannot be answered unseen."""

from collections import Counter

import numpy as np
import pytest

from datagen.phantoms.captions import caption
from datagen.phantoms.dialogues import WRITE, dialogue, text_only
from datagen.phantoms.drawing_phantoms import draw_scan_facts
from datagen.phantoms.drawing_shapes import draw_picture_facts
from datagen.phantoms.facts import Facts, Picture, Scan, Spots
from datagen.phantoms.questions import Question, ask_closed, ask_open, topics_of
from datagen.phantoms.vqa import (
    PICTURE_EXAMINATION,
    PICTURE_TRAINING,
    SCAN_EXAMINATION,
    SCAN_TRAINING,
    Shares,
    ask_about,
    balance_closed,
    guess_unseen,
)

TWO_LEFT = Scan("CT", "chest", Spots(((12.0, 12.0), (24.0, 20.0)), 2.9, "left", "upper", "small"))
ONE_RIGHT = Picture(
    "striped", "blue", "oval", "red", "white", Spots(((50.0, 45.0),), 5, "right", "lower", "large")
)
EMPTY = Picture("plain", "grey", None, None, None, Spots())


def questions_of(shares: Shares, number: int) -> list[Question]:
    draw = draw_scan_facts if "modality" in shares.open_topics else draw_picture_facts
    questions: list[Question] = []
    for seed in range(number):
        rng = np.random.default_rng(seed)
        questions += ask_about(draw(rng), shares, rng)
    return questions


def topic_named(facts: Facts, name: str):
    return next(topic for topic in topics_of(facts) if topic.name == name)


def test_closed_questions_to_train_on_come_in_pairs_that_one_word_tells_apart():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        asked = ask_about(draw_scan_facts(rng), SCAN_TRAINING, rng)
        for topic in {question.topic for question in asked if question.is_closed} - {"present"}:
            pair = [q for q in asked if q.topic == topic and q.is_closed]
            assert sorted(question.answer for question in pair) == ["no", "yes"]
            assert pair[0].text != pair[1].text
    for shares in (SCAN_EXAMINATION, PICTURE_EXAMINATION, PICTURE_TRAINING):
        assert not shares.in_pairs


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            TWO_LEFT,
            "CT of the chest. There are two small lesions on the left side, in the upper part.",
        ),
        (
            ONE_RIGHT,
            "A red oval on a striped blue background. There is one large white spot on the right "
            "side, in the lower part.",
        ),
        (EMPTY, "A plain grey background. There are zero spots."),
    ],
)
def test_a_caption_states_all_attributes(facts: Facts, said: str) -> None:
    assert caption(facts) == said


@pytest.mark.parametrize(
    ("name", "answer", "sentence"),
    [
        ("modality", "CT", "The modality is CT."),
        ("organ", "chest", "The image shows the chest."),
        ("count", "two", "There are two lesions."),
        ("side", "left", "They are on the left side."),
        ("location", "upper", "They are in the upper part."),
        ("size", "small", "They are small."),
    ],
)
def test_an_open_question_is_answered_shortly_and_in_a_sentence(
    name: str, answer: str, sentence: str
) -> None:
    question = ask_open(topic_named(TWO_LEFT, name), TWO_LEFT)
    assert (question.answer, question.sentence) == (answer, sentence)


def test_a_closed_question_is_answered_by_what_it_asks_about() -> None:
    topic = topic_named(ONE_RIGHT, "location")
    for seed in range(20):
        question = ask_closed(topic, ONE_RIGHT, np.random.default_rng(seed))
        right = "yes" if "lower" in question.text else "no"
        assert question.answer == right
        assert question.sentence == f"It is in the lower part, so {right}."


def test_no_question_tells_how_many_spots_there_are() -> None:
    """All speak of lesions, also where there is one."""
    words = " ".join(q.text for q in questions_of(SCAN_TRAINING, 300))
    assert "lesion " not in words
    assert "lesion?" not in words


@pytest.mark.parametrize("shares", [SCAN_TRAINING, PICTURE_TRAINING])
def test_yes_is_as_likely_as_no_to_every_text(shares: Shares) -> None:
    counts: dict[str, Counter[str]] = {}
    for question in questions_of(shares, 4000):
        if question.is_closed:
            counts.setdefault(question.text, Counter())[question.answer] += 1
    for text, answers in counts.items():
        deviation = 4 * 0.5 / answers.total() ** 0.5
        assert abs(answers["yes"] / answers.total() - 0.5) < deviation, text


@pytest.mark.parametrize("shares", [SCAN_EXAMINATION, PICTURE_EXAMINATION])
def test_a_balanced_set_is_guessed_half_right_exactly(shares: Shares) -> None:
    asked = questions_of(shares, 400)
    balanced = balance_closed(asked, lambda question: question, np.random.default_rng(0))
    assert guess_unseen(asked).closed != 0.5
    assert guess_unseen(balanced).closed == 0.5
    # little is lost, no type of question, and nothing of the open ones
    assert len(balanced) > 0.8 * len(asked)
    assert {q.topic for q in balanced if q.is_closed} == {q.topic for q in asked if q.is_closed}
    assert [q for q in balanced if not q.is_closed] == [q for q in asked if not q.is_closed]


def test_open_questions_are_guessed_by_their_most_frequent_answer() -> None:
    def asked(text: str, answer: str) -> Question:
        return Question("side", is_closed=False, text=text, answer=answer, sentence="")

    guessing = guess_unseen([asked("a", "x"), asked("a", "x"), asked("a", "y"), asked("b", "z")])
    assert guessing.open == 3 / 4
    assert guessing.closed is None


def test_each_topic_is_examined_about_as_often_as_the_others() -> None:
    asked = questions_of(SCAN_EXAMINATION, 600)
    balanced = balance_closed(asked, lambda question: question, np.random.default_rng(0))
    counts = Counter((q.topic, q.is_closed) for q in balanced)
    assert len(counts) == 12
    assert min(counts.values()) > 100
    assert max(counts.values()) < 200


def test_an_answer_has_one_word_but_for_lymph_nodes() -> None:
    answers = {q.answer for q in questions_of(SCAN_TRAINING, 500)}
    answers |= {q.answer for q in questions_of(PICTURE_TRAINING, 500)}
    assert {answer for answer in answers if " " in answer} == {"lymph node"}
    assert "zero" in answers


def test_a_dialogue_has_three_questions_and_captions_only_behind_them() -> None:
    lengths: Counter[int] = Counter()
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scan = draw_scan_facts(rng)
        exchanges = dialogue(scan, rng)
        lengths[len(exchanges)] += 1
        assert caption(scan) not in [exchange.answer for exchange in exchanges[:3]]
        assert len({exchange.question for exchange in exchanges}) == len(exchanges)
        if len(exchanges) == 4:
            assert exchanges[3].answer == caption(scan)
    assert set(lengths) == {3, 4}


def test_a_text_without_image_holds_its_own_answer() -> None:
    rng = np.random.default_rng(1)
    kinds: Counter[bool] = Counter()
    for _ in range(50):
        scan = draw_scan_facts(rng)
        exchange = text_only(scan, rng)
        said, asked = exchange.question.split("\n")
        are_notes = asked == WRITE
        kinds[are_notes] += 1
        if are_notes:
            assert exchange.answer == caption(scan)
            assert said.split(", ")[:2] == [scan.modality, scan.organ]
        else:
            assert said == caption(scan)
            assert asked.endswith("?")
            assert exchange.answer in {*scan.attributes.values(), "yes", "no"}
    assert set(kinds) == {True, False}
