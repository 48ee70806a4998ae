"""Original checkpoints and what they are converted into: made once, read by many."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from modeling.checkpoints.conversions import convert_v1, convert_v15
from modeling.checkpoints.job import Job
from modeling.checkpoints.llava_med_v1 import V1Options
from modeling.checkpoints.llava_med_v15 import V15Options
from tests.modeling import original_layouts as originals

SHARD_BYTES = 1_000_000
"""Small enough that tiny checkpoints have several files."""


@dataclass(frozen=True)
class Converted:
    """A checkpoint before and after."""

    original: Path
    tower: Path | None
    hf: Path


def job(out: Path) -> Job:
    return Job(out, SHARD_BYTES, is_dry_run=False)


@pytest.fixture(scope="session")
def v1(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder = tmp_path_factory.mktemp("v1")
    original = originals.write_v1(folder / "original")
    tower = originals.write_clip(folder / "clip")
    convert_v1(original, tower, V1Options(), job(folder / "hf"))
    return Converted(original, tower, folder / "hf")


@pytest.fixture(scope="session")
def v1_biomedclip(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder = tmp_path_factory.mktemp("v1-biomedclip")
    original = originals.write_v1(folder / "original", mm_vision_tower=originals.BIOMEDCLIP)
    tower = originals.write_biomedclip(folder / "biomedclip")
    convert_v1(original, tower, V1Options(), job(folder / "hf"))
    return Converted(original, tower, folder / "hf")


@pytest.fixture(scope="session")
def v15(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder = tmp_path_factory.mktemp("v15")
    original = originals.write_v15(folder / "original")
    convert_v15(original, None, V15Options("checkpoint"), job(folder / "hf"))
    return Converted(original, None, folder / "hf")


@pytest.fixture(scope="session")
def v15_stock(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder = tmp_path_factory.mktemp("v15-stock")
    original = originals.write_v15(folder / "original")
    tower = originals.write_clip(folder / "clip", originals.MISTRAL_SIZES)
    convert_v15(original, tower, V15Options("stock"), job(folder / "hf"))
    return Converted(original, tower, folder / "hf")
