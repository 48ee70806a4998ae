"""The stacks that the end-to-end tests share, each started when it is first asked for."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI, OpenAI

from modeling.tiny import make_tiny_llava
from tests.end_to_end.stack import RunningStack, running_stack

FAKE_MODEL = "fake-vlm"
TINY_MODEL = "tiny-llava"
TINY_IMAGE_PX = 56


@pytest.fixture(scope="session")
def fake_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """The fake engine with room for many requests."""
    folder = tmp_path_factory.mktemp("fake-stack")
    with running_stack(folder, model=FAKE_MODEL, slots=128) as stack:
        yield stack


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    return make_tiny_llava(folder / TINY_MODEL, image_px=TINY_IMAGE_PX)


@pytest.fixture(scope="session")
def tiny_stack(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path
) -> Iterator[RunningStack]:
    """The transformers engine with the tiny checkpoint."""
    worker = {
        "ENGINE": "transformers",
        "MODEL_PATH": str(tiny_checkpoint),
        "DEVICE": "cpu",
        "NUM_THREADS": "1",
    }
    folder = tmp_path_factory.mktemp("tiny-stack")
    with running_stack(folder, model=TINY_MODEL, worker=worker) as stack:
        yield stack


@pytest.fixture(scope="session")
def narrow_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One slot, two places in the queue, small bodies, short time-outs, every log line."""
    gateway = {
        "MAX_WAITING": "2",
        "MAX_BODY_BYTES": "200000",
        "HEAD_TIMEOUT_S": "0.5",
        "BODY_TIMEOUT_S": "0.5",
        "LOG_LEVEL": "debug",
    }
    worker = {"LOG_LEVEL": "debug"}
    folder = tmp_path_factory.mktemp("narrow-stack")
    with running_stack(folder, model=FAKE_MODEL, slots=1, gateway=gateway, worker=worker) as stack:
        yield stack


@pytest.fixture(scope="session")
def fake_client(fake_stack: RunningStack) -> Iterator[OpenAI]:
    with fake_stack.client() as client:
        yield client


@pytest.fixture
async def async_fake_client(fake_stack: RunningStack) -> AsyncIterator[AsyncOpenAI]:
    async with fake_stack.async_client() as client:
        yield client


@pytest.fixture(scope="session")
def tiny_client(tiny_stack: RunningStack) -> Iterator[OpenAI]:
    with tiny_stack.client() as client:
        yield client


@pytest.fixture(scope="session")
def http(fake_stack: RunningStack) -> Iterator[httpx.Client]:
    """A plain HTTP client of the fake stack."""
    with httpx.Client(base_url=fake_stack.base_url, timeout=30, verify=False) as client:
        yield client
