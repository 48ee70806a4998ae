"""Writes the data of a whole curriculum: two worlds, images and texts, each fact known.

    OUT/manifest.json           seed, counts, SHA-256 of every file of records
    OUT/shapes/                 the general-domain base learns from these
        images/ truth.jsonl captions.json qa.json text_only.json test.json
    OUT/phantoms/
        images/ truth.jsonl     of all that follow; no image belongs to two
        alignment.json instruct.json vqa/train.json vqa/val.json vqa/test.json

Every image comes from a random generator of its own, made of the seed, its set and its number:
more of one set changes no other. What does *not* live here: what is drawn and said.
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from datagen.phantoms.dialogues import alignment, dialogue, text_only
from datagen.phantoms.drawing_phantoms import draw_scan, draw_scan_facts
from datagen.phantoms.drawing_shapes import draw_picture
from datagen.phantoms.facts import Facts
from datagen.phantoms.output_files import RecordFile, whole_folder, write_manifest
from datagen.phantoms.records import conversation_record, question_record, truth_record
from datagen.phantoms.vqa import (
    PICTURE_EXAMINATION,
    PICTURE_TRAINING,
    SCAN_EXAMINATION,
    SCAN_TRAINING,
    Shares,
    ask_about,
    balance_closed,
)
from services.die_with_parent import die_with_starter

_PNG_COMPRESSION = 1  # of 9; more takes longer and gains little on noise
_WORTH_PROCESSES = 2_000  # images: fewer are drawn before a process has started
_MOST_PROCESSES = 8
_AT_ONCE = 64  # images that a process draws before it tells
VERSION = 3
"""Rises when the same seed gives other data."""

SetName = Literal["shapes", "shapes_test", "alignment", "instruct", "train", "val", "test"]
_Stream = Literal[SetName, "text_only", "balance_shapes", "balance_val", "balance_test"]

_Mapping = Callable[[Callable[[int], "Drawn"], Iterable[int]], Iterable["Drawn"]]

# First numbers of the generators' seeds: never renumber, append. Numbers 6 and 11 were the test
# set's until settings were chosen with an eye on it.
_STREAMS: dict[_Stream, int] = {
    "shapes": 0,
    "shapes_test": 1,
    "alignment": 2,
    "instruct": 3,
    "train": 4,
    "val": 5,
    "test": 12,
    "text_only": 7,
    "balance_shapes": 8,
    "balance_val": 9,
    "balance_test": 10,
}


@dataclass(frozen=True, slots=True)
class Counts:
    """How many images each set has; `text_only`: how many texts.

    Args:
        shapes_told: so many of the pictures, the first ones, have captions and questions.
    """

    shapes: int = 16_000
    shapes_told: int = 8_000
    shapes_test: int = 500
    text_only: int = 5_000
    alignment: int = 4_000
    instruct: int = 4_000
    vqa_train: int = 6_000
    vqa_val: int = 400
    vqa_test: int = 600

    @property
    def num_images(self) -> int:
        """Of all sets."""
        return sum(asdict(self).values()) - self.text_only - self.shapes_told


@dataclass(frozen=True, slots=True)
class Drawn:
    """An image that has just been drawn.

    Args:
        name: of its file, without the suffix.
        rng: what is left of its random generator, for questions.
    """

    name: str
    facts: Facts
    rng: np.random.Generator

    @property
    def file_name(self) -> str:
        """As records name it."""
        return f"{self.name}.png"


def write_data(
    out: Path,
    seed: int = 0,
    counts: Counts | None = None,
    *,
    force: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Write everything, or nothing; the same arguments give the same bytes.

    Args:
        force: replace what an earlier call wrote.
        advance: called after each image.

    Raises:
        PhantomError: `out` is there already.
    """
    counts = counts or Counts()
    with whole_folder(out, force=force) as folder, _mapping(counts.num_images) as mapping:
        writer = _Writer(folder, seed, mapping, advance)
        writer.write_shapes(counts)
        writer.write_phantoms(counts)
        values: dict[str, object] = {
            "version": VERSION,
            "complete": True,
            "seed": seed,
            "counts": asdict(counts),
            "files": dict(sorted(writer.files.items())),
        }
        write_manifest(folder, values)


def draw_one(seed: int, name: SetName, index: int) -> tuple[Drawn, Image.Image]:
    """Return an image of a set, and what is known of it."""
    draw = draw_picture if name in {"shapes", "shapes_test"} else draw_scan
    rng = _generator(seed, name, index)
    facts, image = draw(rng)
    return Drawn(f"{name}-{index:06d}", facts, rng), image


def _draw_into(images: Path, seed: int, name: SetName, index: int) -> Drawn:
    drawn, image = draw_one(seed, name, index)
    image.save(images / drawn.file_name, compress_level=_PNG_COMPRESSION)
    return drawn


@contextlib.contextmanager
def _mapping(num_images: int) -> Generator[_Mapping]:
    """Give a `map` that works in several processes where that is worth it."""
    if num_images < _WORTH_PROCESSES:
        yield map
        return
    # Started afresh: the caller may have threads, which a fork does not survive.
    context = multiprocessing.get_context("spawn")
    processes = min(_MOST_PROCESSES, os.cpu_count() or 1)
    with ProcessPoolExecutor(processes, context, initializer=_begin_drawing) as pool:
        try:
            yield partial(pool.map, chunksize=_AT_ONCE)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin_drawing() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first one ends us
    die_with_starter()


class _Writer:
    """Writes sets into a folder, and notes what it wrote in `files`."""

    def __init__(
        self, folder: Path, seed: int, mapping: _Mapping, advance: Callable[[], None]
    ) -> None:
        self._folder = folder
        self._seed = seed
        self._map = mapping
        self._advance = advance
        self.files: dict[str, dict[str, object]] = {}

    def write_shapes(self, counts: Counts) -> None:
        with self._open("shapes/truth.jsonl") as truth:
            with self._open("shapes/captions.json") as captions, self._open("shapes/qa.json") as qa:
                pictures = self._draw("shapes", "shapes", counts.shapes, truth)
                for number, drawn in enumerate(pictures):
                    if number >= counts.shapes_told:
                        continue
                    exchange = alignment(drawn.facts, drawn.rng)
                    record = conversation_record(drawn.name, [exchange], drawn.file_name)
                    captions.write(record)
                    self._write_questions(drawn, PICTURE_TRAINING, qa)
            tested = self._draw("shapes", "shapes_test", counts.shapes_test, truth)
            self._write_examination(
                "shapes/test.json", tested, PICTURE_EXAMINATION, "balance_shapes"
            )
        with self._open("shapes/text_only.json") as texts:
            for index in range(counts.text_only):
                rng = _generator(self._seed, "text_only", index)
                exchange = text_only(draw_scan_facts(rng), rng)
                texts.write(conversation_record(f"text-{index:06d}", [exchange], None))

    def write_phantoms(self, counts: Counts) -> None:
        with self._open("phantoms/truth.jsonl") as truth:
            with self._open("phantoms/alignment.json") as captions:
                for drawn in self._draw("phantoms", "alignment", counts.alignment, truth):
                    exchange = alignment(drawn.facts, drawn.rng)
                    record = conversation_record(drawn.name, [exchange], drawn.file_name)
                    captions.write(record)
            with self._open("phantoms/instruct.json") as dialogues:
                for drawn in self._draw("phantoms", "instruct", counts.instruct, truth):
                    exchanges = dialogue(drawn.facts, drawn.rng)
                    record = conversation_record(drawn.name, exchanges, drawn.file_name)
                    dialogues.write(record)
            with self._open("phantoms/vqa/train.json") as train:
                for drawn in self._draw("phantoms", "train", counts.vqa_train, truth):
                    self._write_questions(drawn, SCAN_TRAINING, train)
            val = self._draw("phantoms", "val", counts.vqa_val, truth)
            self._write_examination("phantoms/vqa/val.json", val, SCAN_EXAMINATION, "balance_val")
            test = self._draw("phantoms", "test", counts.vqa_test, truth)
            self._write_examination(
                "phantoms/vqa/test.json", test, SCAN_EXAMINATION, "balance_test"
            )

    def _draw(self, world: str, name: SetName, number: int, truth: RecordFile) -> Iterator[Drawn]:
        """Yield images that are written, as is their truth."""
        images = self._folder / world / "images"
        images.mkdir(exist_ok=True)
        for drawn in self._map(partial(_draw_into, images, self._seed, name), range(number)):
            truth.write(truth_record(drawn.facts, drawn.file_name))
            yield drawn
            self._advance()

    def _write_questions(self, drawn: Drawn, shares: Shares, file: RecordFile) -> None:
        for index, question in enumerate(ask_about(drawn.facts, shares, drawn.rng)):
            file.write(question_record(f"{drawn.name}-{index}", question, drawn.file_name))

    def _write_examination(
        self, name: str, images: Iterator[Drawn], shares: Shares, stream: _Stream
    ) -> None:
        """Write questions of which a closed text's answers are yes and no equally often."""
        asked = [
            (question, drawn.name, index)
            for drawn in images
            for index, question in enumerate(ask_about(drawn.facts, shares, drawn.rng))
        ]
        rng = _generator(self._seed, stream, 0)
        with self._open(name) as file:
            for question, image, index in balance_closed(asked, lambda each: each[0], rng):
                file.write(question_record(f"{image}-{index}", question, f"{image}.png"))

    @contextlib.contextmanager
    def _open(self, name: str) -> Generator[RecordFile]:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with RecordFile(path) as file:
            yield file
        self.files[name] = {"records": file.num_records, "sha256": file.sha256}


def _generator(seed: int, stream: _Stream, index: int) -> np.random.Generator:
    return np.random.default_rng((seed, _STREAMS[stream], index))
