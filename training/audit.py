"""One pass over all records before a model is loaded: how long each is, and what is wrong.

Text is tokenised once, and the counts are kept beside the run for the next start. What does *not*
live here: whether an image can be decoded, which its loader finds out and tells the same
`Problems`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeling.checkpoints.progress_bar import ProgressBar
from training.audit_cache import read_counts, write_counts
from training.audit_pass import NO_IMAGE, NO_KEY, Counts, Looker, look_at_all
from training.config import TrainConfig
from training.data_statistics import DataStatistics
from training.errors import TrainingError
from training.examples import Example, ExampleTokeniser, image_names
from training.problems import Problem, Problems
from training.processor import LlavaProcessing
from training.records import Records
from training.token_file import TokenFile, TokenWriter

_TOKENS = ".tokens"
PROBLEMS_FILE = "problems.jsonl"
_MOST_WITHOUT_PROCESSES = 20_000  # records; below it starting processes takes longer
_VERSION = 2
"""Of what is kept; raise it where other counts come of the same records."""


@dataclass(frozen=True, slots=True)
class DataTable:
    """All usable examples, E of them, as columns.

    Args:
        record: int64 [E], index over all files, rising.
        num_tokens: int32 [E], image tokens included, after truncation.
        num_trained: int32 [E], labels that count.
        prefix_length: int32 [E], tokens up to the last image's end, where nothing up to there is
            trained, so that other examples may share them; 0: none.
        num_images: int32 [E].
        image_key: int32 [E], the same for examples of the same images; -1: shows none.
        prefix_key: int32 [E], the same for examples of the same images whose prefixes have the
            same tokens; -1: no prefix.
        tokens: of all of them.
    """

    records: Records
    tokens: TokenFile
    problems: Problems
    record: np.ndarray
    num_tokens: np.ndarray
    num_trained: np.ndarray
    prefix_length: np.ndarray
    num_images: np.ndarray
    image_key: np.ndarray
    prefix_key: np.ndarray

    def __len__(self) -> int:
        return len(self.record)

    @property
    def data_hash(self) -> str:
        """SHA-256 over the files' hashes."""
        return self.records.data_hash

    def example(self, number: int) -> Example:
        """Return the example of a row; its tokens are read, not made anew."""
        index = int(self.record[number])
        names = image_names(self.records.record(index)) if self.num_images[number] else ()
        return Example(index, names[: self.num_images[number]], self.tokens.prompt(number))

    def statistics(self) -> DataStatistics:
        """Return what a plan needs to know."""
        has_image = self.image_key >= 0
        num_keys = len(np.unique(self.image_key[has_image]))
        return DataStatistics(
            num_examples=len(self),
            mean_tokens=float(self.num_tokens.mean()),
            mean_answer_tokens=float(self.num_trained.mean()),
            images_per_example=float(self.num_images.mean()),
            examples_per_image=float(has_image.sum() / num_keys) if num_keys else 1.0,
        )


def audit(config: TrainConfig, processing: LlavaProcessing, folder: Path) -> DataTable:
    """Look at all records, and stop where more of them have a problem than the recipe allows.

    Args:
        folder: of the run; gets the list of problems and what is kept of the counts.

    Raises:
        TrainingError: a file cannot be read, nothing can be used, or a share is exceeded.
    """
    _check_image_folder(config.data.image_folder)
    folder.mkdir(parents=True, exist_ok=True)
    records = Records(config.data.files)
    tokeniser = ExampleTokeniser(processing, config.model.conversation, config.data.max_length)
    looker = Looker(records, tokeniser, config.data.image_folder, config.data.requires_images)
    problems = Problems(folder / PROBLEMS_FILE, records, config.data.limits)
    kept = folder / f"audit-{_fingerprint(looker)}.npz"
    counts = read_counts(kept)
    if counts is None or _is_outdated(counts, looker) or not _tokens(looker, kept, counts).is_whole:
        counts = _look(looker, config.data.workers, kept.with_suffix(_TOKENS))
        write_counts(kept, counts)
    problems.begin(counts.problems)
    _refuse_text_only(counts.problems, looker)
    problems.check_shares(len(records))
    if not len(counts.columns):
        raise TrainingError(
            f"none of {len(records)} records can be used; the first problem is "
            f"{problems.first()}; all are listed in {problems.path}"
        )
    return _table(looker, problems, counts, _tokens(looker, kept, counts))


def _tokens(looker: Looker, kept: Path, counts: Counts) -> TokenFile:
    num_packed = counts.columns[:, -1]
    return TokenFile(kept.with_suffix(_TOKENS), num_packed, looker.tokeniser.image_ids)


def _check_image_folder(folder: Path | None) -> None:
    if folder is not None and not folder.is_dir():
        raise TrainingError(
            f"data.image_folder {folder} is no folder; give the one that holds the images"
        )


def _fingerprint(looker: Looker) -> str:
    """Return a hash of all that decides the counts, but for which images are there."""
    folder = looker.image_folder
    decides = [
        _VERSION,
        looker.records.data_hash,
        looker.tokeniser.fingerprint,
        looker.requires_images,
        None if folder is None else str(folder.resolve()),
    ]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]


def _is_outdated(counts: Counts, looker: Looker) -> bool:
    """Whether an image that was missing is there now."""
    return any(
        looker.missing_image(image_names(looker.records.record(record)), record) is None
        for kind, record, _ in counts.problems
        if kind == "missing_images"
    )


def _look(looker: Looker, num_workers: int, tokens: Path) -> Counts:
    records = looker.records
    num_processes = num_workers if len(records) > _MOST_WITHOUT_PROCESSES else 0
    with ProgressBar(records.num_bytes) as bar, TokenWriter(tokens) as writer:
        return look_at_all(
            looker,
            num_processes,
            writer.append,
            lambda share: bar.advance(int(share * records.num_bytes), "reading records"),
        )


def _refuse_text_only(problems: Sequence[Problem], looker: Looker) -> None:
    if not looker.requires_images:
        return
    num_without = sum(reason == NO_IMAGE for _, _, reason in problems)
    if num_without == len(looker.records):
        raise TrainingError(
            f"all {num_without} records are text-only, beginning with {looker.records.where(0)}, "
            "and this recipe needs images (data.requires_images); give files whose records have one"
        )


def _table(looker: Looker, problems: Problems, counts: Counts, tokens: TokenFile) -> DataTable:
    columns = iter(np.ascontiguousarray(counts.columns.T))
    return DataTable(
        records=looker.records,
        tokens=tokens,
        problems=problems,
        record=next(columns),
        num_tokens=next(columns).astype(np.int32),
        num_trained=next(columns).astype(np.int32),
        prefix_length=next(columns).astype(np.int32),
        num_images=next(columns).astype(np.int32),
        image_key=_keys(next(columns)),
        prefix_key=_keys(next(columns)),
    )


def _keys(hashes: np.ndarray) -> np.ndarray:
    """Return small numbers for hashes, -1 for `NO_KEY`."""
    _, keys = np.unique(hashes, return_inverse=True)
    return np.where(hashes == NO_KEY, -1, keys).astype(np.int32)
