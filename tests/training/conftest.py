"""Checkpoints that tests train: a tiny LLaVA, and converted ones of both LLaVA-Meds."""

from pathlib import Path

import pytest

from modeling.tiny import make_tiny_llava
from tests.modeling.conftest import v1, v1_biomedclip, v15

__all__ = ["tiny", "v1", "v1_biomedclip", "v15"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("tiny") / "checkpoint")
