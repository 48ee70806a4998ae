from pathlib import Path

import pytest
import torch

from modeling.tiny import make_tiny_llava
from tests.worker.checkpoints import make_tiny_gemma3, make_tiny_paddleocr_vl


@pytest.fixture(scope="session", autouse=True)
def two_torch_threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("llava") / "tiny-llava")


@pytest.fixture(scope="session")
def tiny_paddleocr_vl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_paddleocr_vl(tmp_path_factory.mktemp("paddle") / "tiny-paddleocr-vl")


@pytest.fixture(scope="session")
def tiny_gemma3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gemma3(tmp_path_factory.mktemp("gemma") / "tiny-gemma3")


@pytest.fixture(scope="session", params=["llava", "paddleocr_vl", "gemma3"])
def any_checkpoint(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"tiny_{request.param}")
