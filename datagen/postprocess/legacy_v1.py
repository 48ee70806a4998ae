"""The rules of LLaVA-Med's tool as the profile `legacy-v1`, its defects included.

Order and effects are those of instruct_postprocess at microsoft/LLaVA-Med's v1.0; its phrases are
written as patterns of our own, family by family. Kept on purpose: what follows a cut lead-in is
lower-cased, and the image's marker goes with a first turn that is dropped. Two things differ. The
coin that places the marker has a seed, and a sample without a turn is a counted reject: there it
ended the run. What does *not* live here: rules that one would want (`standard_v1.py`).
"""

import random
import re
from collections.abc import Sequence

from datagen.postprocess.parsing import turns_as_seed
from datagen.postprocess.samples import Item, Note, OutTurn, Rejected, Sample, items_turns

_REFUSAL = re.compile(
    r"(?:having|without|have) access"
    r"|access to the (?:actual )?image"
    r"|without seeing"
    r"|cannot (?:directly )?(?:see|view)"
    r"|unable to (?:directly )?view|unable to provide specific details"
    r"|sorry"
    r"|not (?:mentioned|provided|specified) in the (?:(?:figure|image) )?caption"
    r"|image (?:itself )?is not available"
)
_SOURCE = r"(?:description|caption|context)"
_WHOSE = r"(?:(?:image|figure|provided|given|mri|ct|histology|histological) ){0,2}"
_LEAD_IN = re.compile(
    rf"(?:yes, |no, )?(?:according to|based on) the {_WHOSE}{_SOURCE}(?: provided)?, "
    rf"|(?:yes, |no, )?the {_WHOSE}{_SOURCE} (?:mentions|suggests|indicates) that "
)
# Case counts here, as it does there.
_INFIX = re.compile(
    rf",? as (?:mentioned|described|indicated) in the {_WHOSE}{_SOURCE}"
    rf"|,? (?:according to|based on) the {_WHOSE}{_SOURCE}"
    r"|,? in the context of the (?:image|figure|MRI|CT|CT scan|X-ray|histology) provided,?"
)


class LegacyV1:
    """The profile; one object for one run, whose coin goes on from item to item.

    Args:
        seed: of the coin.
    """

    name = "legacy-v1"

    def __init__(self, seed: int) -> None:
        self._coin = random.Random(seed)  # noqa: S311 - a coin, no secret

    def look_over(self, samples: Sequence[Sample]) -> None:
        """Nothing is found faster in many at once: these rules act on nearly each text."""

    def item_of(self, sample: Sample, note: Note) -> Item:
        """Return the item of a sample; raises Rejected."""
        turns = self._turns(sample, note)
        kept: list[OutTurn] = []
        for number in range(0, len(turns), 2):
            asked, answered = turns[number : number + 2]
            text, rule = clean_answer(answered.value)
            if rule:
                note("turn" if text is None else "change", rule, number // 2)
            if text is not None:
                kept += (asked, OutTurn("gpt", text))
        if not kept:
            raise Rejected("no_turn_left")
        return Item(
            id=sample.id,
            image=sample.image,
            domain=sample.domain,
            licence=sample.licence or None,
            conversations=kept,
        )

    def _turns(self, sample: Sample, note: Note) -> list[OutTurn]:
        pairs = sample.turns
        is_first = sample.is_marker_first
        num_unpaired = sample.num_unpaired
        if pairs is None:
            parsed = turns_as_seed(sample.result or "")
            pairs, num_unpaired = parsed.pairs, parsed.num_unpaired
        for _ in range(num_unpaired):
            note("turn", "unpaired", -1)
        if not pairs:
            raise Rejected("no_turns")
        if is_first is None:
            is_first = self._coin.random() < 0.5
        return items_turns(pairs, sample.image, is_marker_first=is_first)


def clean_answer(answer: str) -> tuple[str | None, str]:
    """Return what is kept of an answer, None for nothing, and the rule that acted."""
    lower = answer.lower()
    if _REFUSAL.search(lower):
        return None, "refusal"
    if found := _LEAD_IN.match(lower):
        rest = answer[found.end() :].capitalize()  # lower-cases what follows: its defect
        return (None, "caption_leak") if _leaks(rest) else (rest, "lead_in_cut")
    rest, num_removed = _INFIX.subn("", answer)
    if _leaks(rest):
        return None, "caption_leak"
    return (rest, "infix_removed") if num_removed else (answer, "")


def _leaks(text: str) -> bool:
    return "description" in text or "caption" in text
