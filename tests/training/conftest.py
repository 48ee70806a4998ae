"""Checkpoints that tests train: tiny LLaVAs, and converted ones of both LLaVA-Meds."""

from pathlib import Path

import pytest

from modeling.tiny import make_tiny_llava
from tests.modeling.conftest import v1, v1_biomedclip, v15
from tests.training.small_runs import Workshop, make_workshop

__all__ = ["tiny", "v1", "v1_biomedclip", "v15"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("workshop"))
