"""The pass over all records: in this process, or in several that each take every n-th stretch.

What does *not* live here: what is made of the counts (`audit.py`).
"""

import array
import hashlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from training.errors import TrainingError
from training.examples import Example, ExampleTokeniser, MalformedRecordError, image_names
from training.problems import Problem, ProblemKind
from training.records import Records
from training.token_file import packed

NUM_COLUMNS = 8
STRETCH = 500  # records that are looked at together
NO_IMAGE = "it shows no image, and data.requires_images asks for one"
NO_KEY = 0  # in place of a hash: no images, no prefix


@dataclass(frozen=True, slots=True)
class Counts:
    """What is known of the usable examples, E of them, and what is wrong with records.

    Args:
        columns: int64 [E, 8]: record, tokens, trained tokens, prefix length, images, a hash of
            their names, one of names and prefix, and packed tokens (`token_file.py`).
        packed: those of a stretch; empty for all together, which are in their file.
    """

    columns: np.ndarray
    problems: list[Problem]
    packed: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint32))


@dataclass(frozen=True, slots=True)
class Looker:
    """Looks at records.

    Args:
        image_folder: None where no record may show an image.
        requires_images: a record without one is malformed.
    """

    records: Records
    tokeniser: ExampleTokeniser
    image_folder: Path | None
    requires_images: bool

    def look(self, start: int) -> Counts:
        """Return the counts of one stretch.

        Raises:
            TrainingError: a record shows an image, and no folder of images is known.
        """
        rows: list[tuple[int, ...]] = []
        problems: list[Problem] = []
        tokens = [np.empty(0, np.uint32)]
        for index in range(start, min(start + STRETCH, len(self.records))):
            record = self.records.record(index)
            try:
                example = self.tokeniser.tokenise(index, record)
                has_image = bool(image_names(record))
            except MalformedRecordError as error:
                problems.append(("malformed", index, str(error)))
                continue
            if self.requires_images and not has_image:
                problems.append(("malformed", index, NO_IMAGE))
                continue
            found = self._problems_of(example)
            problems.extend((kind, index, reason) for kind, reason in found.items())
            is_blind = self.requires_images and not example.images  # lost when it was cut
            if not (is_blind or "missing_images" in found or "without_loss" in found):
                tokens.append(packed(example.prompt))
                rows.append((*_row(example), len(tokens[-1])))
        columns = np.array(rows, np.int64).reshape(-1, NUM_COLUMNS)
        return Counts(columns, problems, np.concatenate(tokens))

    def missing_image(self, names: Sequence[str], index: int) -> str | None:
        """Return the first of some images that is no file."""
        if names and self.image_folder is None:
            raise TrainingError(
                f"{self.records.where(index)} shows an image; set data.image_folder to the folder "
                "of images"
            )
        folder = self.image_folder or Path()
        return next((name for name in names if not _is_file(folder / name)), None)

    def _problems_of(self, example: Example) -> dict[ProblemKind, str]:
        found: dict[ProblemKind, str] = {}
        if example.has_dropped_answer:
            found["dropped_leading_answers"] = "it began with an answer, which was left out"
        if example.is_truncated:
            found["truncated"] = f"longer than {self.tokeniser.max_length} tokens"
        if not example.num_trained_tokens:
            answer = "no part of an answer is left" if example.has_answer else "nobody answers"
            found["without_loss"] = answer
        missing = self.missing_image(example.images, example.record)
        if missing is not None:
            found["missing_images"] = f"{missing!r} is no file in {self.image_folder}"
        return found


def look_at_all(
    looker: Looker,
    num_processes: int,
    keep: Callable[[np.ndarray], None],
    advance: Callable[[float], None],
) -> Counts:
    """Return the counts of all records, in their order.

    Args:
        num_processes: 0: this one does it.
        keep: gets the packed tokens of one more stretch.
        advance: is told which share of all records one more stretch is.

    Raises:
        TrainingError: as `Looker.look` says, or a process died.
    """
    starts = range(0, len(looker.records), STRETCH)
    parts: list[Counts] = []
    found = _in_processes(looker, num_processes) if num_processes else map(looker.look, starts)
    for counts in found:
        keep(counts.packed)
        parts.append(Counts(counts.columns, counts.problems))
        advance(1 / len(starts))
    return Counts(
        np.concatenate([part.columns for part in parts]),
        [problem for part in parts for problem in part.problems],
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _row(example: Example) -> tuple[int, ...]:
    names = "\0".join(example.images).encode()
    prefix_length = example.shared_prefix_length
    prefix = array.array("q", example.prompt.token_ids[:prefix_length]).tobytes()
    return (
        example.record,
        example.num_tokens,
        example.num_trained_tokens,
        prefix_length,
        len(example.images),
        _hash(names) if example.images else NO_KEY,
        _hash(names + b"\0" + prefix) if prefix_length else NO_KEY,
    )


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), signed=True)


def _in_processes(looker: Looker, num_processes: int) -> Iterator[Counts]:
    """Yield the counts of all stretches in their order; process n of N does n, n + N, ..."""
    context = multiprocessing.get_context("spawn")  # threads of tokenizers do not survive a fork
    pairs = [context.Pipe(duplex=False) for _ in range(num_processes)]
    processes = [
        context.Process(target=_work, args=(looker, sender, n, num_processes), daemon=True)
        for n, (_, sender) in enumerate(pairs)
    ]
    try:
        for process, (_, sender) in zip(processes, pairs, strict=True):
            process.start()
            sender.close()  # the process has its own end: when it dies, the pipe ends
        for number in range(-(-len(looker.records) // STRETCH)):
            yield _receive(pairs[number % num_processes][0])
    finally:
        for process, (receiver, _) in zip(processes, pairs, strict=True):
            if process.pid is not None:
                process.terminate()
                process.join()
            receiver.close()


def _receive(receiver: Connection) -> Counts:
    try:
        answer = receiver.recv()
    except EOFError as error:
        raise TrainingError(
            "a process that tokenises ended early; is memory short? set data.workers to 0"
        ) from error
    if isinstance(answer, TrainingError):
        raise answer
    return answer


def _work(looker: Looker, sender: Connection, first: int, num_processes: int) -> None:
    """Send the counts of every n-th stretch, or why it cannot be."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first one ends us
    size = STRETCH * num_processes
    for start in range(STRETCH * first, len(looker.records), size):
        try:
            counts = looker.look(start)
        except TrainingError as error:
            sender.send(error)
            return
        sender.send(counts)
