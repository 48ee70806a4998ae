"""Tests of the vLLM engine: collected only where vLLM is installed (`make test` sees to that)."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from modeling.tiny import make_tiny_llava
from services.worker.engines.base import Engine
from services.worker.engines.registry import build_engine
from services.worker.settings import WorkerSettings

collect_ignore_glob = [] if find_spec("vllm") else ["test_*.py"]

SETTINGS: dict[str, Any] = {
    "engine": "vllm",
    "model_id": "tiny",
    "slots": 64,
    "dtype": "float32",
    "kv_cache_gib": 1,
    "max_images": 4,
}


def vllm_engine(path: Path, **settings: Any) -> Engine:
    return build_engine(WorkerSettings(**{**SETTINGS, "model_path": path, **settings}))


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("llava") / "tiny-llava")
