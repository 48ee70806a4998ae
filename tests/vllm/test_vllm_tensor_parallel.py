"""The processes of the vLLM engine over two tensor-parallel ranks, and their cores."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from services.worker.settings import thread_bindings
from tests.vllm.conftest import vllm_engine
from tests.worker.shared_engine import EngineHost

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(tiny_llava: Path) -> AsyncIterator[EngineHost]:
    host = EngineHost(vllm_engine(tiny_llava, tensor_parallel_size=2))
    await host.start()
    yield host
    await host.close()


@pytest.mark.long  # as its contract is
async def test_there_is_one_process_per_rank(host: EngineHost) -> None:
    (core,) = (p for p in psutil.Process().children() if "EngineCore" in p.name())
    assert sum("Worker" in p.name() for p in core.children()) == 2


@pytest.mark.parametrize(
    ("cores", "ranks", "threads", "expected"),
    [
        (range(2), 2, None, "0|1"),
        (range(8), 2, None, "0,1,2,3|4,5,6,7"),
        (range(8), 2, 2, "0,1|4,5"),
        ([3, 5, 7, 9], 2, 1, "3|7"),
        (range(5), 2, None, "0,1|2,3"),
    ],
)
async def test_every_rank_has_cores_of_its_own(
    cores: Any, ranks: int, threads: int | None, expected: str
) -> None:
    assert thread_bindings(list(cores), ranks, threads) == expected
