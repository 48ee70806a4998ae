"""One run: samples are judged one by one, repetitions found, and the file written as a whole.

1. Each input is read once; accepted items go to a temporary file, numbers about them to columns.
2. Repetitions are found in the columns.
3. The output is written without them, then put in its place as the last step.

Nothing depends on time or on an earlier run: what is stopped is started again and gives the same
bytes. Memory does not grow with the input. What does *not* live here: the rules.
"""

import gc
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import msgspec
import numpy as np

from datagen.figures import MOST_ID_CHARS
from datagen.postprocess.columns import ColumnWriter
from datagen.postprocess.near_duplicates import Fates, drop_near_duplicates, drop_repeated_ids
from datagen.postprocess.samples import Item, Profile, Rejected, Sample, sample_of
from datagen.postprocess.signatures import NUM_BANDS, Signer, band_keys
from datagen.postprocess.tally import Reject, RejectFile, Tally
from datagen.postprocess.words import Hashes
from datagen.postprocess.work_folder import WorkFolder
from datagen.postprocess.writing import ITEMS, REJECTS, Accepted, put_in_place, write_items
from datagen.records import Found, Problem, read_records, shape_of
from modeling.conversations import IMAGE_MARKER

_BATCH_ROWS = 512
_BATCH_BYTES = 1 << 20
_SAMPLES_AT_ONCE = 128  # their words' numbers stay in a core's own cache
_CHARS_AT_ONCE = 1 << 20
_HASH_WINDOW_BYTES = 1 << 20
_encode = msgspec.json.Encoder().encode


class Watch(Protocol):
    """Is shown how far a run is."""

    def begin(self, name: str, total: int | None, /) -> None:
        """Begin a part of the work."""
        ...

    def advance(self, count: int = 1, /) -> None:
        """More is done."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done.

    Args:
        has_unique_ids: whether only the first item of an id stays.
        likeness: from which on texts are near-duplicates; None: they stay.
        reason_against_image: says why a sample of this image is left out.
        described: what else decides the output, for the manifest.
    """

    inputs: Sequence[Path]
    out: Path
    profile: Profile
    has_unique_ids: bool
    likeness: float | None
    reason_against_image: Callable[[str], str | None] | None = None
    described: dict[str, Any] = field(default_factory=dict[str, Any])


def postprocess(plan: Plan, watch: Watch) -> Tally:
    """Do it; returns the counts.

    Raises:
        DataError: an input cannot be read at all, or another run writes the same output.
    """
    inputs = [_Input(path, watch) for path in plan.inputs]
    gc.freeze()  # samples form no cycles; what was loaded is not looked through again for each
    tally = Tally()
    with WorkFolder(plan.out) as work, (work.path / REJECTS).open("wb") as file:
        rejects = RejectFile(file, tally)
        num_rows = _judge_all(plan, inputs, work.path, rejects, watch)
        fates = Fates(work.path, num_rows)
        if plan.has_unique_ids:
            drop_repeated_ids(work.path, fates)
        if plan.likeness is not None:
            watch.begin("finding near-duplicates", NUM_BANDS)
            drop_near_duplicates(work.path, fates, plan.likeness, watch.advance)
        watch.begin("writing", num_rows)
        names = [source.path.name for source in inputs]
        output = write_items(plan.out, Accepted(work.path, fates, names), rejects, watch.advance)
        file.flush()
        description = {
            "profile": plan.profile.name,
            **plan.described,
            "inputs": [source.described() for source in inputs],
            "output": output,
            "counts": tally.counts(),
            "examples": dict(sorted(tally.examples.items())),
        }
        put_in_place(plan.out, work.path, description)
    return tally


class _Input:
    """A file with what identifies it; reading it once more is cheap beside judging it."""

    def __init__(self, path: Path, watch: Watch) -> None:
        self.path = path
        self.shape = shape_of(path)
        self.num_bytes = self.num_lines = 0
        watch.begin(f"hashing {path.name}", None)
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while window := file.read(_HASH_WINDOW_BYTES):
                digest.update(window)
                self.num_bytes += len(window)
                self.num_lines += window.count(b"\n")
        self.sha256 = digest.hexdigest()

    def described(self) -> dict[str, Any]:
        """Return what the manifest says of it."""
        return {"name": self.path.name, "bytes": self.num_bytes, "sha256": self.sha256}


def _judge_all(
    plan: Plan, inputs: Sequence[_Input], folder: Path, rejects: RejectFile, watch: Watch
) -> int:
    """Write accepted items and their columns; returns how many they are."""
    with (folder / ITEMS).open("wb") as items, ColumnWriter(folder) as columns:
        batches = _Batches(items, columns, has_texts=plan.likeness is not None)
        for number, source in enumerate(inputs):
            is_counted = source.shape == "lines"
            watch.begin(f"reading {source.path.name}", source.num_lines if is_counted else None)
            _Judging(plan, number, batches, rejects, watch).judge(source.path)
        batches.flush()
        return columns.num_rows


@dataclass(frozen=True, slots=True)
class _Taken:
    """A record that was read: its sample, or why it is none. Of its size nothing else stays."""

    number: int
    shown_id: str | int | None
    sample: Sample | str

    @property
    def num_chars(self) -> int:
        """About how long its texts are."""
        if isinstance(self.sample, str):
            return 0
        return len(self.sample.result or "") + sum(
            len(question) + len(answer) for question, answer in self.sample.turns or ()
        )


def _taken(found: Found) -> _Taken:
    record = found.record
    shown_id = _shown_id(record.get("id", record.get("pair_id")))
    try:
        return _Taken(found.number, shown_id, sample_of(record, found.group))
    except Rejected as reason:
        return _Taken(found.number, shown_id, str(reason))


class _Judging:
    """Judges the records of one input."""

    def __init__(
        self, plan: Plan, number: int, batches: "_Batches", rejects: RejectFile, watch: Watch
    ) -> None:
        self._look_over, self._item_of = plan.profile.look_over, plan.profile.item_of
        self._reason_against = plan.reason_against_image
        self._name = plan.inputs[number].name
        self._source = number
        self._batches = batches
        self._rejects = rejects
        self._watch = watch
        self._waiting: list[_Taken | Problem] = []
        self._num_chars = 0
        self._number = 0
        self._id: str | int | None = None
        self._changed = rejects.tally.changed

    def judge(self, path: Path) -> None:
        """Judge all of them; some are taken at once, since together they are looked over faster."""
        for found in read_records(path, self._waiting.append):
            taken = _taken(found)
            self._waiting.append(taken)
            self._num_chars += taken.num_chars
            if len(self._waiting) >= _SAMPLES_AT_ONCE or self._num_chars >= _CHARS_AT_ONCE:
                self._judge_waiting()
        self._judge_waiting()

    def _judge_waiting(self) -> None:
        taken = [one for one in self._waiting if isinstance(one, _Taken)]
        self._rejects.tally.num_records += len(taken)
        self._look_over([one.sample for one in taken if isinstance(one.sample, Sample)])
        for one in self._waiting:
            if isinstance(one, Problem):
                self._rejects.unreadable(self._name, one.number, one.kind)
                continue
            self._number, self._id = one.number, one.shown_id
            try:
                self._accept(one.sample)
            except Rejected as reason:
                self._rejects.sample(Reject(self._name, one.number, str(reason), one.shown_id))
        self._waiting.clear()
        self._num_chars = 0
        self._watch.advance(len(taken))

    def _accept(self, sample: Sample | str) -> None:
        if isinstance(sample, str):
            raise Rejected(sample)
        if self._reason_against is not None and sample.image is not None:
            reason = self._reason_against(sample.image)
            if reason is not None:
                raise Rejected(reason)
        item = self._item_of(sample, self._note)
        try:
            line = _encode(item)
        except UnicodeEncodeError as error:  # half a character
            raise Rejected("bad_text") from error
        self._rejects.tally.count(item, 1)
        is_whole = len(item.conversations) == 2 * len(sample.turns or ())
        words = sample.plain_words if is_whole else None
        self._batches.append(item, line, (self._number, self._source), words)

    def _note(self, what: Literal["turn", "change"], rule: str, turn: int) -> None:
        number = self._number
        if what == "turn":
            self._rejects.turn(Reject(self._name, number, rule, self._id, turn))
        else:
            self._changed[rule] += 1
            self._rejects.tally.exemplify(rule, f"{self._name}:{number} turn {turn}")


class _Batches:
    """Writes items, and of many at once the columns.

    Args:
        has_texts: whether signatures are needed.
    """

    def __init__(self, items: BinaryIO, columns: ColumnWriter, *, has_texts: bool) -> None:
        self._items = items
        self._columns = columns
        self._signer = Signer() if has_texts else None
        self._lines: list[bytes] = []
        self._ids: list[bytes] = []
        self._contents: list[bytes] = []
        self._places: list[tuple[int, int]] = []
        self._texts: list[bytes | Hashes] = []
        self._images: list[bytes] = []
        self._num_bytes = self._start = 0

    def append(self, item: Item, line: bytes, place: tuple[int, int], words: Hashes | None) -> None:
        """Take one item.

        Args:
            place: its number, and its input's.
            words: of all its turns; None: they are read here.
        """
        self._lines.append(line)
        self._ids.append(blake2b(str(item.id).encode(), digest_size=8).digest())
        self._contents.append(blake2b(line, digest_size=8).digest())
        self._places.append(place)
        if self._signer is not None:
            if words is None:
                text = "\n".join([turn.value for turn in item.conversations])
                self._texts.append(text.replace(IMAGE_MARKER, "").encode())
            else:
                self._texts.append(words)
            self._images.append((item.image or "").encode())
        self._num_bytes += len(line)
        if len(self._lines) >= _BATCH_ROWS or self._num_bytes >= _BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was taken."""
        if not self._lines:
            return
        self._items.write(b"\n".join(self._lines) + b"\n")
        ids = np.frombuffer(b"".join(self._ids), np.uint64)
        ends = np.cumsum([len(line) + 1 for line in self._lines], dtype=np.uint64)
        starts = np.concatenate((np.zeros(1, np.uint64), ends[:-1])) + np.uint64(self._start)
        self._start += int(ends[-1])
        places = np.array(self._places, np.uint64)
        self._columns.append(
            id=ids | np.uint64(1),  # 0 is no key
            content=np.frombuffer(b"".join(self._contents), np.uint64),
            number=places[:, 0],
            source=places[:, 1],
            start=starts,
        )
        if self._signer is not None:
            signatures = self._signer.sign(self._texts, self._images)
            self._columns.append_signatures(signatures, band_keys(signatures))
        for taken in (
            self._lines, self._ids, self._contents, self._places, self._texts, self._images
        ):  # fmt: skip
            taken.clear()
        self._num_bytes = 0


def _shown_id(name: object) -> str | int | None:
    """Return a record's id for the list of rejects, cut where it is absurd."""
    if isinstance(name, bool) or not isinstance(name, str | int):
        return None
    if isinstance(name, int):
        return name if abs(name) < 1 << 63 else str(name)[:MOST_ID_CHARS]
    return name[:MOST_ID_CHARS].encode(errors="replace").decode()
