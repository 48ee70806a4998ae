"""The rules of LLaVA-Med's tool as they are, defects included (specification, section 3.4)."""

import pytest

from datagen.postprocess.legacy_v1 import LegacyV1, clean_answer
from datagen.postprocess.parsing import turns_as_seed
from datagen.postprocess.samples import Rejected, sample_of


def item_of(result: str, profile: LegacyV1 | None = None):
    record = {"pair_id": "1_F1", "fig_caption": "x", "result": result, "domain": {"mri": True}}
    notes: list[tuple[str, str, int]] = []
    item = (profile or LegacyV1(0)).item_of(
        sample_of(record), lambda what, rule, turn: notes.append((what, rule, turn))
    )
    return item, notes


def test_what_precedes_the_first_question_is_no_turn() -> None:
    parsed = turns_as_seed("Here you are. User: a? Assistant: b. User:  c?\n\nAssistant:  d. ")

    assert parsed.pairs == [("a?", "b."), ("c?", "d.")]


def test_a_turn_without_exactly_one_reply_is_dropped() -> None:
    parsed = turns_as_seed("User: a? Assistant: b. Assistant: c. User: d? User: e? Assistant: f.")

    assert parsed.pairs == [("e?", "f.")]
    assert parsed.num_unpaired == 2


@pytest.mark.parametrize(
    ("answer", "kept", "rule"),
    [
        ("Without seeing it, who knows.", None, "refusal"),
        ("SORRY, no.", None, "refusal"),
        ("It is not specified in the figure caption.", None, "refusal"),
        ("I have access to it.", None, "refusal"),
        ("According to the caption, an MRI with T2.", "An mri with t2.", "lead_in_cut"),
        ("Yes, based on the image description, H&E.", "H&e.", "lead_in_cut"),
        ("The context suggests that A is B.", "A is b.", "lead_in_cut"),
        ("Based on the caption, the Caption is long.", None, "caption_leak"),
        ("A mass, as mentioned in the caption, in T2.", "A mass, in T2.", "infix_removed"),
        ("A mass, as described in the context, by the caption.", None, "caption_leak"),
        ("A mass, As Mentioned in the context.", "A mass, As Mentioned in the context.", ""),
        ("A description of it.", None, "caption_leak"),
        ("A Caption of it.", "A Caption of it.", ""),
        ("A T2 image.", "A T2 image.", ""),
    ],
)
def test_an_answer_is_judged_in_the_seeds_order(answer: str, kept: str | None, rule: str) -> None:
    assert clean_answer(answer) == (kept, rule)


def test_the_image_is_lost_with_a_first_turn_that_is_dropped() -> None:
    item, notes = item_of("User: a? Assistant: Sorry. User: b? Assistant: c.")

    assert item.image == "1_F1.jpg"
    assert [turn.value for turn in item.conversations] == ["b?", "c."]
    assert notes == [("turn", "refusal", 0)]


def test_the_coin_has_a_seed_and_goes_on_from_item_to_item() -> None:
    def firsts(seed: int) -> list[str]:
        profile = LegacyV1(seed)
        return [
            item_of("User: a? Assistant: b.", profile)[0].conversations[0].value for _ in range(40)
        ]

    assert firsts(3) == firsts(3)
    assert firsts(3) != firsts(4)
    assert set(firsts(3)) == {"a?\n<image>", "<image>\na?"}


def test_a_sample_without_a_turn_is_a_reject_and_ends_nothing() -> None:
    with pytest.raises(Rejected, match=r"^no_turns$"):
        item_of("I will not.")
    with pytest.raises(Rejected, match=r"^no_turn_left$"):
        item_of("User: a? Assistant: Sorry.")
