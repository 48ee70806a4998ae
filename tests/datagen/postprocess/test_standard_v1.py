"""Our rules: what they drop and keep, that case stays, and that the image is never lost."""

import json

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datagen.postprocess.samples import Item, Rejected, sample_of
from datagen.postprocess.standard_v1 import StandardV1
from modeling.conversations import IMAGE_MARKER, parse_item

Notes = list[tuple[str, str, int]]


def cleaned(record: dict, seed: int = 0, **options) -> tuple[Item, Notes]:
    notes: Notes = []
    item = StandardV1(seed, **options).item_of(
        sample_of(record), lambda what, rule, turn: notes.append((what, rule, turn))
    )
    return item, notes


def generated(*pairs: tuple[str, str], **fields) -> dict:
    result = "\n\n".join(f"User: {q}\n\nAssistant: {a}" for q, a in pairs)
    return {"pair_id": "1_F1", "fig_caption": "A scan.", "result": result, **fields}


def answers(item: Item) -> list[str]:
    return [turn.value for turn in item.conversations[1::2]]


def rules_for(answer: str) -> list[str]:
    _, notes = cleaned(generated(("Where?", "Left."), ("What is shown?", answer)))
    return [rule for _, rule, turn in notes if turn == 1]


GOOD = ("What is shown?", "A T2-weighted MRI with H&E staining beside it.")


def test_case_is_kept_behind_a_lead_in_that_is_cut() -> None:
    item, notes = cleaned(
        generated(("What is it?", "According to the image description, an MRI with T2 and H&E."))
    )

    assert answers(item) == ["An MRI with T2 and H&E."]
    assert notes == [("change", "lead_in_cut", 0)]


def test_an_infix_goes_and_the_sentence_around_it_stays() -> None:
    item, _ = cleaned(generated(("What is it?", "A mass, as mentioned in the caption, is LARGE.")))

    assert answers(item) == ["A mass is LARGE."]


def test_the_image_stands_in_the_first_turn_that_stays() -> None:
    item, notes = cleaned(generated(("What?", "Sorry, I cannot see the image."), GOOD))

    assert notes == [("turn", "refusal", 0)]
    assert IMAGE_MARKER in item.conversations[0].value
    assert item.image == "1_F1.jpg"


@pytest.mark.parametrize(
    ("answer", "rule"),
    [
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("As an AI language model, I look at no scans.", "refusal"),
        ("Without seeing the image it is hard to tell.", "refusal"),
        ("I do not have access to the actual image.", "refusal"),
        ("The age is not mentioned in the caption.", "refusal"),
        ("The figure caption shows more.", "caption_leak"),
        ("More stands in the image description.", "caption_leak"),
        ("The context provided has more of it.", "caption_leak"),
        ("It is a cyst, and the article reports two more.", "caption_leak"),
        ("You should take ibuprofen twice a day.", "advice"),
        ("Please consult your doctor soon.", "advice"),
        ("I diagnose a carcinoma.", "advice"),
        ("You have a fracture there.", "advice"),
        ("Take 20 mg of it each day.", "advice"),
        ("The scan of 12/03/2019 shows it.", "identifier"),
        ("Mr. Smith has a cyst there.", "identifier"),
        ("Patient name: Miller.", "identifier"),
    ],
)
def test_a_turn_that_shows_a_fault_is_dropped_by_its_rule(answer: str, rule: str) -> None:
    assert rules_for(answer) == [rule]


@pytest.mark.parametrize(
    "answer",
    [
        "A detailed description of the lesion would begin with its smooth border.",
        "The texture is coarse, and no mass is visible.",
        "As you can see, the border is irregular.",
        "It cannot be determined whether the node is malignant.",
        "The context of the lesion, near the hilum, is unusual.",
        "In this study, T2 signal is high.",
        "The liver takes up the dye without delay.",
    ],
)
def test_ordinary_answers_stay_as_they_are(answer: str) -> None:
    item, notes = cleaned(generated(("What is shown?", answer)))

    assert answers(item) == [answer]
    assert notes == []


def test_a_question_about_a_caption_is_dropped() -> None:
    _, notes = cleaned(generated(GOOD, ("What does the caption say?", "A mass.")))

    assert notes == [("turn", "caption_leak", 1)]


def test_a_sample_without_a_turn_that_stays_is_a_reject_with_its_reason() -> None:
    with pytest.raises(Rejected, match=r"^no_turn_left$"):
        cleaned(generated(("What?", "Sorry.")))
    with pytest.raises(Rejected, match=r"^no_turns$"):
        cleaned(generated() | {"result": "I will not."})


def test_speakers_inside_an_answer_part_nothing() -> None:
    item, _ = cleaned(generated(("Who spoke?", "The label reads Assistant: and User: in print.")))

    assert len(item.conversations) == 2


def test_a_marker_in_generated_text_is_no_image() -> None:
    item, notes = cleaned(generated(("What is <image>?", "It is <image>.")))

    assert "".join(turn.value for turn in item.conversations).count(IMAGE_MARKER) == 1
    assert ("change", "marker_neutralised", 0) in notes


def test_the_place_of_the_image_depends_on_seed_and_id_alone() -> None:
    firsts = [
        cleaned(generated(GOOD, pair_id=f"{number}_F1"), seed)[0].conversations[0].value
        for seed in (0, 1)
        for number in range(50)
    ]
    again = cleaned(generated(GOOD, pair_id="7_F1"), 0)[0].conversations[0].value

    assert again == firsts[7]
    before = sum(text.startswith(IMAGE_MARKER) for text in firsts[:50])
    assert 10 < before < 40
    assert firsts[:50] != firsts[50:]


def test_licence_and_domains_go_along() -> None:
    item, _ = cleaned(generated(GOOD, licence="CC BY", domain={"mri": True, "other": True}))

    assert item.licence == "CC BY"
    assert item.domain == {
        "chest_xray": False, "mri": True, "histology": False, "gross": False, "ct_scan": False,
    }  # fmt: skip


def test_an_item_that_was_post_processed_before_comes_out_as_it_was() -> None:
    item, _ = cleaned(generated(GOOD, ("And where?", "On the left."), licence="CC0"))
    record = json.loads(msgspec.json.encode(item))

    again, notes = cleaned(record, seed=5)

    assert again == item
    assert notes == []


def test_the_misspelt_key_and_integers_are_read() -> None:
    item, _ = cleaned(
        {
            "id": 7,
            "image": "a.jpg",
            "conversatons": [
                {"from": "human", "value": "How many lesions?\n<image>"},
                {"from": "gpt", "value": 3},
            ],
        }
    )

    assert item.id == 7
    assert [turn.value for turn in item.conversations] == ["How many lesions?\n<image>", "3"]


def test_a_benchmarks_question_is_dropped() -> None:
    _, notes = cleaned(generated(GOOD, GOOD), is_benchmark_question=lambda q: False)
    assert notes == []

    with pytest.raises(Rejected, match="no_turn_left"):
        cleaned(generated(GOOD), is_benchmark_question=lambda q: True)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TURN = st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "gpt", "x"]), "value": st.text() | st.integers() | JSON}
)
KEYS = ("id", "pair_id", "image", "conversations", "result", "turns", "domain", "licence")
TALK = st.lists(
    st.sampled_from(["User: ", "Assistant: ", "\n", "<image>", "Sorry", "a mass", "caption", " "])
).map("".join)
RECORD = st.dictionaries(st.sampled_from(KEYS), JSON) | st.fixed_dictionaries(
    {"pair_id": st.sampled_from(["1", "2_a"]), "result": TALK}
    | {"id": st.integers() | st.text(min_size=1, max_size=9)},
    optional={
        "conversations": st.lists(TURN, max_size=5),
        "image": st.sampled_from(["a.jpg", "/"]),
    },
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(RECORD)
def test_any_record_gives_an_item_that_training_reads_or_a_reason(record: dict) -> None:
    try:
        item, _ = cleaned(record)
    except Rejected:
        return

    conversation = parse_item(json.loads(msgspec.json.encode(item)))
    assert conversation.num_images == (item.image is not None)
    assert conversation.turns[0].num_images == conversation.num_images
    assert [turn.role for turn in conversation.turns[:2]] == ["user", "assistant"]
