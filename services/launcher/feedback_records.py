"""From votes to training records, and which split a record belongs to. Pure.

What does *not* live here: where votes and images come from (`feedback_export.py`).
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from services.store.models import FeedbackRow

Split = Literal["train", "validation", "test"]
_MARKER = "<image>"
_SUBJECT = "subject\0"


@dataclass(frozen=True, slots=True)
class Shown:
    """A file as a model saw it: `preprocess` is a request's, as the vote keeps it."""

    sha256: str
    file_id: str
    preprocess: dict[str, Any]

    @property
    def name(self) -> str:
        """The same for the same file shown in the same way, and for nothing else."""
        if not self.preprocess:
            return self.sha256
        way = json.dumps(self.preprocess, sort_keys=True)
        return f"{self.sha256}-{hashlib.sha256(way.encode()).hexdigest()[:16]}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A vote that can be learnt from, if its images are found.

    Args:
        groups: what may not be in two splits: the subject and every image.
    """

    row: FeedbackRow
    turns: list[dict[str, str]]
    images: list[Shown]
    groups: tuple[str, ...]


def candidate_of(row: FeedbackRow) -> Candidate | str:
    """Return what can be learnt from a vote, or why nothing can.

    An `up` teaches the answer that was given; `down` and `flag` the corrected one, if there is one.
    """
    if not row.consent:
        return "no consent"
    if row.conversation is None:
        return "no conversation"
    if row.subject is None or row.licence is None:
        return "no subject or licence"
    turns = [dict(turn) for turn in row.conversation]
    if row.corrected_answer is not None:
        turns[-1]["content"] = row.corrected_answer
    elif row.rating != "up":
        return "a bad answer that nobody corrected"
    images = [
        Shown(image["sha256"], image.get("file_id", ""), image.get("preprocess", {}))
        for image in row.images or ()
    ]
    subject = f"{_SUBJECT}{row.tenant_id}\0{row.subject}"
    files = (f"image\0{image.sha256}" for image in images)
    return Candidate(row, turns, images, (subject, *files))


def training_record(candidate: Candidate, names: list[str], split: Split) -> dict[str, Any]:
    """Return a vote as LLaVA-Med's training record, with where it comes from beside it.

    Args:
        names: of its images, relative to the folder of images.
    """
    row = candidate.row
    speakers = {"user": "human", "assistant": "gpt"}
    turns = [{"from": speakers[t["role"]], "value": t["content"]} for t in candidate.turns]
    turns[0]["value"] = f"{_MARKER}\n" * len(names) + turns[0]["value"]
    image = {} if not names else {"image": names[0] if len(names) == 1 else names}
    return {
        "id": row.id,
        **image,
        "conversations": turns,
        "consent": row.consent,
        "split": split,
        "source": {
            "request_id": row.request_id,
            "tenant": row.tenant_id,
            "model": row.model,
            "revision": row.revision,
            "rating": row.rating,
            "is_corrected": row.corrected_answer is not None,
            "subject": row.subject,
            "licence": row.licence,
            "voted_ms": row.changed_ms,
        },
    }


class Splitter:
    """Puts what is joined by a subject or an image into one split, decided by a hash.

    The smallest name of the subjects that are joined decides (of the images, where there is no
    subject), so that a subject stays in its split from one export to the next, however many images
    are added to it, unless one of them joins it to another subject.

    Args:
        validation, test: shares.
        salt: another one divides otherwise.
    """

    def __init__(self, validation: float, test: float, salt: str = "") -> None:
        self._validation = validation
        self._test = test
        self._salt = salt
        self._above: dict[str, str] = {}

    def join(self, groups: Iterable[str]) -> None:
        """Say that these belong together; they belong with all that any of them was joined to."""
        first, *others = groups
        for other in others:
            low, high = sorted((self._top(first), self._top(other)), key=_rank)
            if low != high:
                self._above[high] = low

    def split_of(self, group: str) -> Split:
        """Return where a subject or an image belongs, once all are joined."""
        text = f"{self._salt}\0{self._top(group)}"
        place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
        if place < self._test:
            return "test"
        return "validation" if place < self._test + self._validation else "train"

    def _top(self, group: str) -> str:
        """Return the name that decides for a group; the way there is shortened."""
        top = group
        while (above := self._above.get(top, top)) != top:
            top = above
        while (above := self._above.get(group, group)) != top and group != top:
            self._above[group] = top
            group = above
        return top


def _rank(group: str) -> tuple[bool, str]:
    """Order subjects before images, whatever their names are."""
    return not group.startswith(_SUBJECT), group
