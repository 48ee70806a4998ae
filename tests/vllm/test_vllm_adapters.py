"""LoRA adapters in the vLLM engine: they act on their own requests, and come and go under load."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from modeling.adapter_files import AdapterError
from services.protocol.errors import ErrorCode
from services.worker.engines.base import EngineJob
from tests.vllm.checkpoints import make_adapter, merge_adapter
from tests.vllm.conftest import vllm_engine
from tests.worker.engine_harness import PROMPTS, job, picture, running
from tests.worker.generate_reference import generate
from tests.worker.shared_engine import EngineHost

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(
    tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[EngineHost]:
    adapters = tmp_path_factory.mktemp("adapters")
    host = EngineHost(vllm_engine(tiny_llava, adapters_dir=adapters, max_lora_rank=8))
    await host.start()
    yield host
    await host.close()


async def test_an_adapter_answers_like_its_merged_weights(
    host: EngineHost, tiny_llava: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_llava, tmp_path / "lora")
    merged = merge_adapter(tiny_llava, adapter.path, tmp_path / "merged")
    jobs = [job(f"l{n}", PROMPTS[n], [picture(n)]) for n in range(3)]
    adapted = [
        EngineJob(
            msgspec.structs.replace(
                each.request, adapter="lora", request_id=f"{each.request.request_id}-a"
            ),
            each.images,
        )
        for each in jobs
    ]
    async with running(host.shared) as started:
        await started.engine.load_adapter(adapter)
        recorded = await started.run(*jobs, *adapted)
        await started.engine.unload_adapter("lora")
        (gone,) = await started.run(
            EngineJob(msgspec.structs.replace(adapted[0].request, request_id="gone"), ())
        )
    assert [r.token_ids for r in recorded[:3]] == generate(tiny_llava, jobs)
    assert [r.token_ids for r in recorded[3:]] == generate(merged, jobs)
    assert gone.failed.code == ErrorCode.MODEL_NOT_FOUND


async def test_an_adapter_is_replaced_while_requests_run_with_it(
    host: EngineHost, tiny_llava: Path, tmp_path: Path
) -> None:
    first = make_adapter(tiny_llava, tmp_path / "lora")
    second = make_adapter(tiny_llava, tmp_path / "other" / "lora", seed=1)
    merged = merge_adapter(tiny_llava, second.path, tmp_path / "merged")

    def adapted(request_id: str, **sampling: Any) -> EngineJob:
        sent = job(request_id, **sampling)
        return EngineJob(msgspec.structs.replace(sent.request, adapter="lora"), ())

    llm: Any = host.engine._llm  # type: ignore[attr-defined]
    async with running(host.shared) as started:
        await started.engine.load_adapter(first)
        started.submit(adapted("long", max_tokens=1800, min_tokens=1800))
        await started.until(lambda: bool(started.of("long").token_ids))
        await started.engine.load_adapter(second)
        assert len(started.of("long").token_ids) < 1800, "it was waited for"
        (short,) = await started.run(adapted("short"))
        assert len(await llm.list_loras()) == 2
        started.engine.abort("long")
        async with asyncio.timeout(10):
            while len(await llm.list_loras()) > 1:
                await asyncio.sleep(0)
        await started.engine.unload_adapter("lora")
    assert [short.token_ids] == generate(merged, [job("short")])


async def test_an_adapter_of_the_vision_tower_is_refused(
    host: EngineHost, tiny_llava: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(tiny_llava, tmp_path / "lora", targets="all")
    with pytest.raises(AdapterError, match="language models only"):
        await host.engine.load_adapter(adapter)
