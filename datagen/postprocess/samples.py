"""What post-processing reads and writes: a sample with turns, and an item of LLaVA-Med's schema.

Three forms are read: what `galen datagen instruct` writes (a figure with `result`, or `turns`),
the same of LLaVA-Med's tool, and items that have their `conversations` already. What does *not*
live here: which turns are kept (`standard_v1.py`, `legacy_v1.py`), and files (`running.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import msgspec

from datagen.figures import DOMAINS, MOST_ID_CHARS, is_safe_name
from datagen.postprocess.words import Hashes
from datagen.teacher_turns import Pair, TurnsError, written_by_teacher
from modeling.conversations import IMAGE_MARKER

MOST_TEXT_CHARS = 65_536
"""Of all turns; far above the longest conversation that fits a context of 4096 tokens."""
MOST_TURNS = 128

# What is no sample at all: exit code 3 tells of these.
NO_SAMPLE = frozenset({"wrong_schema", "bad_id", "bad_text", "unsafe_image", "too_large"})

Note = Callable[[Literal["turn", "change"], str, int], None]
"""Is told of a turn that was left out or changed: the rule's name, and the turn's number from 0."""


class Rejected(Exception):  # noqa: N818 - it is an outcome with a reason
    """A sample is left out; its text is the reason, one of a few words for counting."""


class OutTurn(msgspec.Struct, rename={"speaker": "from"}):
    """One side of a turn as training reads it."""

    speaker: Literal["human", "gpt"]
    value: str


class Item(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An item of LLaVA-Med's training schema, in the order in which its fields are written."""

    id: str | int
    image: str | None = None
    domain: dict[str, bool] | None = None
    licence: str | None = None
    conversations: list[OutTurn]


@dataclass(slots=True)
class Sample:
    """A record whose form has been checked; of its text nothing has been judged.

    Args:
        image: a path inside the folder of images, without `..`; None: it shows none.
        domain: LLaVA-Med's five flags; None: not known.
        licence: empty: not known.
        result: what a teacher answered; None where `turns` are known.
        turns: questions with answers.
        is_marked: whether the human turns said where the image stands.
        is_marker_first: whether it stood before the words; None: not said.
        num_unpaired: turns without an answer, or without a question.
        plain_words: all words of its turns where no rule about words can apply to any; None: not
            known, or one may.
    """

    id: str | int
    image: str | None
    domain: dict[str, bool] | None
    licence: str
    result: str | None = None
    turns: list[Pair] | None = None
    is_marked: bool = False
    is_marker_first: bool | None = None
    num_unpaired: int = 0
    plain_words: Hashes | None = None


class Profile(Protocol):
    """A versioned set of rules."""

    name: str

    def look_over(self, samples: Sequence[Sample]) -> None:
        """Note in samples what is found faster in many at once; what comes of them is the same."""
        ...

    def item_of(self, sample: Sample, note: Note) -> Item:
        """Return what is trained on; raises Rejected."""
        ...


def sample_of(record: Mapping[str, Any], group: str | None = None) -> Sample:
    """Return the sample of a record; raises Rejected with a reason of `NO_SAMPLE`.

    Args:
        group: the name of the list in which it stood; a domain's counts where it has no flags.
    """
    turns = record.get("conversations", record.get("conversatons"))
    is_item = turns is not None
    sample = Sample(
        id=_id_of(record.get("id") if is_item else record.get("pair_id")),
        image=None,
        domain=_flags(record.get("domain"), group),
        licence=_licence(record),
    )
    image = record.get("image")
    if image is None and not is_item:
        image = f"{sample.id}.jpg"  # as LLaVA-Med's tool names it
    if image is not None:
        if not isinstance(image, str) or not _is_inside(image):
            raise Rejected("unsafe_image")
        sample.image = image
    if is_item:
        _take_conversation(sample, turns)
    else:
        _take_result(sample, record)
    return sample


def items_turns(pairs: list[Pair], image: str | None, *, is_marker_first: bool) -> list[OutTurn]:
    """Return turns as they are written; the image stands in the first question."""
    turns: list[OutTurn] = []
    for question, answer in pairs:
        turns.append(OutTurn("human", question))
        turns.append(OutTurn("gpt", answer))
    if image is not None:
        asked = turns[0].value
        both = (IMAGE_MARKER, asked) if is_marker_first else (asked, IMAGE_MARKER)
        turns[0].value = "\n".join(both)
    return turns


def _take_result(sample: Sample, record: Mapping[str, Any]) -> None:
    try:
        written = written_by_teacher(record)
    except TurnsError as error:
        raise Rejected("wrong_schema") from error
    if isinstance(written, list):
        _check_size(written)
        sample.turns = written
    elif len(written) > MOST_TEXT_CHARS:
        raise Rejected("too_large")
    else:
        sample.result = written


def _take_conversation(sample: Sample, turns: object) -> None:
    if not isinstance(turns, list):
        raise Rejected("wrong_schema")
    pairs: list[Pair] = []
    asked: str | None = None
    for turn in cast("list[object]", turns):
        speaker, text = _said(turn)
        if speaker == "human":
            text = _without_marker(sample, text)
            sample.num_unpaired += asked is not None
            asked = text
        elif asked is None:
            sample.num_unpaired += 1
        else:
            pairs.append((asked, text))
            asked = None
    sample.num_unpaired += asked is not None
    if sample.is_marked and sample.image is None:
        raise Rejected("wrong_schema")  # a marker without an image would shift a batch's images
    _check_size(pairs)
    sample.turns = pairs


def _said(turn: object) -> tuple[str, str]:
    if not isinstance(turn, Mapping):
        raise Rejected("wrong_schema")
    fields = cast("Mapping[str, object]", turn)
    speaker, value = fields.get("from"), fields.get("value")
    if speaker not in ("human", "gpt"):
        raise Rejected("wrong_schema")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Rejected("wrong_schema")
    return str(speaker), str(value)


def _without_marker(sample: Sample, text: str) -> str:
    """Return a human's words without the image's marker, and note where it stood."""
    if IMAGE_MARKER not in text:
        return text
    bare = text.strip()
    sample.is_marked = True
    if bare.startswith(IMAGE_MARKER):
        sample.is_marker_first = True
        bare = bare[len(IMAGE_MARKER) :]
    elif bare.endswith(IMAGE_MARKER):
        sample.is_marker_first = False
        bare = bare[: -len(IMAGE_MARKER)]
    return bare.strip()


def _check_size(pairs: list[Pair]) -> None:
    if len(pairs) > MOST_TURNS or sum(len(q) + len(a) for q, a in pairs) > MOST_TEXT_CHARS:
        raise Rejected("too_large")


def _id_of(value: object) -> str | int:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63:
        return value
    if isinstance(value, str) and 0 < len(value) <= MOST_ID_CHARS and value.isprintable():
        return value
    raise Rejected("bad_id")


def _is_inside(image: str) -> bool:
    if is_safe_name(image):
        return True
    return len(image) <= 1024 and all(is_safe_name(part) for part in image.split("/"))


def _flags(value: object, group: str | None) -> dict[str, bool] | None:
    if isinstance(value, Mapping):
        flags = cast("Mapping[str, object]", value)
        return {name: bool(flags.get(name)) for name in DOMAINS}
    return {name: name == group for name in DOMAINS} if group in DOMAINS else None


def _licence(record: Mapping[str, Any]) -> str:
    licence = record.get("licence") or record.get("license")
    return licence[:MOST_ID_CHARS] if isinstance(licence, str) else ""
