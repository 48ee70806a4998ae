"""LoRA adapters in the transformers engine: its rows against checkpoints that PEFT has merged."""

import asyncio
import gc
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from modeling.adapter_files import AdapterError, AdapterFiles, open_adapter
from modeling.checkpoint_files import open_checkpoint
from services.protocol.errors import ErrorCode
from services.worker.engines.adapter_rows import read_weights
from services.worker.engines.base import EngineJob
from services.worker.engines.transformers_engine import LoadOptions, TransformersEngine
from tests.support.adapters import make_adapter, make_merged
from tests.worker.engine_harness import PROMPTS, Running, job, picture, running

PLAIN, PATTERNED, SEEING = "chest", "ct.v2", "seeing"  # a dot, which PEFT's own names may not have
IMAGES = (picture(1), picture(2))


def engine(checkpoint: Path, **load: Any) -> TransformersEngine:
    options: dict[str, Any] = {"dtype": "float32", "device": "cpu", **load}
    return TransformersEngine(checkpoint, "llava", 8, load=LoadOptions(**options))


@pytest.fixture(scope="module")
def folders(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    out = tmp_path_factory.mktemp("adapters")
    return {
        PLAIN: make_adapter(tiny_llava, out / PLAIN, seed=1),
        PATTERNED: make_adapter(
            tiny_llava,
            out / PATTERNED,
            seed=2,
            rank=2,
            rank_pattern={"o_proj": 6},
            alpha_pattern={"layers.1.mlp.up_proj": 3},
            use_rslora=True,
        ),
        SEEING: make_adapter(  # its vision tower and its projector, too
            tiny_llava, out / SEEING, seed=3, targets=["q_proj", "linear_2", "fc1"]
        ),
    }


@pytest.fixture(scope="module")
def adapters(tiny_llava: Path, folders: dict[str, Path]) -> dict[str, AdapterFiles]:
    base = open_checkpoint(tiny_llava)
    return {name: open_adapter(path, base, "llava", 64, str) for name, path in folders.items()}


def with_adapter(each: EngineJob, name: str | None) -> EngineJob:
    return EngineJob(msgspec.structs.replace(each.request, adapter=name), each.images)


def questions(tag: str, adapter: str | None, **sampling: Any) -> list[EngineJob]:
    """Text, one image, two images."""
    asked = [((), 0), (IMAGES[:1], 1), (IMAGES, 2)]
    return [
        with_adapter(job(f"{tag}-{i}", PROMPTS[i], images, **sampling), adapter)
        for images, i in asked
    ]


async def ids_of(engine: TransformersEngine) -> list[list[int]]:
    async with running(lambda: engine) as alone:
        return [each.token_ids for each in await alone.run(*questions("alone", None))]


async def answers(run: Running, jobs: Sequence[EngineJob]) -> list[list[int]]:
    return [each.token_ids for each in await run.run(*jobs)]


def num_layers() -> int:
    """PEFT's layers that live anywhere in this process: the model itself is out of reach."""
    gc.collect()
    return sum(issubclass(type(each), LoraLayer) for each in gc.get_objects())


async def test_rows_of_one_batch_answer_as_merged_checkpoints_do(
    tiny_llava: Path,
    folders: dict[str, Path],
    adapters: dict[str, AdapterFiles],
    tmp_path: Path,
) -> None:
    expected: dict[str | None, list[list[int]]] = {None: await ids_of(engine(tiny_llava))}
    for name, path in folders.items():
        expected[name] = await ids_of(engine(make_merged(tiny_llava, path, tmp_path / name)))
    assert len({str(each) for each in expected.values()}) == 4  # each changes the answers

    async with running(lambda: engine(tiny_llava)) as run:
        for adapter in adapters.values():
            await run.engine.load_adapter(adapter)
        order = (PLAIN, None, PATTERNED, SEEING)
        jobs = [questions(str(name), name) for name in order]
        mixed = [each for row in zip(*jobs, strict=True) for each in row]  # 12 for 8 slots
        found = await answers(run, mixed)

    for i, name in enumerate(order):
        assert found[i::4] == expected[name], name


async def test_base_rows_are_bit_identical_beside_adapters(
    tiny_llava: Path, adapters: dict[str, AdapterFiles]
) -> None:
    asked = {"logprobs": 3, "max_tokens": 8}
    async with running(lambda: engine(tiny_llava)) as run:
        first = await run.run(*questions("before", None, **asked), *questions("b2", None, **asked))
        await run.engine.load_adapter(adapters[PLAIN])
        beside = await run.run(*questions("beside", None, **asked), *questions("a", PLAIN, **asked))
        await run.engine.unload_adapter(PLAIN)
        after = await run.run(*questions("after", None, **asked), *questions("a2", None, **asked))

    logprobs = [
        [t.logprobs for each in runs[:3] for t in each.tokens] for runs in (first, beside, after)
    ]
    assert logprobs[0] == logprobs[1] == logprobs[2]


async def test_adapters_come_and_go_while_requests_run(
    tiny_llava: Path, adapters: dict[str, AdapterFiles]
) -> None:
    async with running(lambda: engine(tiny_llava)) as run:
        [alone] = await run.run(job("alone", max_tokens=80))
        run.submit(job("long", max_tokens=80))
        await run.until(lambda: len(run.of("long").tokens) > 3)
        await run.engine.load_adapter(adapters[PLAIN])
        [short] = await run.run(with_adapter(job("short", max_tokens=80), PLAIN))
        run.submit(with_adapter(job("leaving", max_tokens=80), PLAIN))
        await run.until(lambda: len(run.of("leaving").tokens) > 3)
        await run.engine.unload_adapter(PLAIN)
        [late] = await run.run(with_adapter(job("late"), PLAIN))
        long, leaving = await run.ends("long", "leaving")

    assert long.token_ids == alone.token_ids
    assert leaving.token_ids == short.token_ids != alone.token_ids
    assert (late.failed.code, late.failed.param) == (ErrorCode.MODEL_NOT_FOUND, "model")


async def test_last_adapter_leaves_no_layer_behind(
    tiny_llava: Path, adapters: dict[str, AdapterFiles]
) -> None:
    async with running(lambda: engine(tiny_llava)) as run:
        before = num_layers()
        for name in (PLAIN, PATTERNED):
            await run.engine.load_adapter(adapters[name])
        between = num_layers()
        for name in (PLAIN, PATTERNED):
            await run.engine.unload_adapter(name)
        await run.run(job("step"))
        assert (between > 0, num_layers()) == (True, before)


async def test_adapter_of_the_same_name_replaces_the_earlier_one(
    tiny_llava: Path, folders: dict[str, Path], adapters: dict[str, AdapterFiles], tmp_path: Path
) -> None:
    other = shutil.copytree(folders[SEEING], tmp_path / PLAIN)
    replacement = open_adapter(other, open_checkpoint(tiny_llava), "llava", 64, str)
    async with running(lambda: engine(tiny_llava)) as run:
        await run.engine.load_adapter(adapters[PLAIN])
        await run.engine.load_adapter(adapters[SEEING])
        old = await answers(run, questions("old", PLAIN))
        await run.engine.load_adapter(replacement)
        new = await answers(run, questions("new", PLAIN))
        assert new == await answers(run, questions("seeing", SEEING)) != old


async def test_answer_of_an_adapter_is_continued_exactly(
    tiny_llava: Path, adapters: dict[str, AdapterFiles]
) -> None:
    async with running(lambda: engine(tiny_llava)) as run:
        await run.engine.load_adapter(adapters[PLAIN])
        [whole] = await run.run(with_adapter(job("whole"), PLAIN))
        seen = whole.token_ids[:10]
        [rest] = await run.run(with_adapter(job("rest", resume_token_ids=seen, attempt=2), PLAIN))

    assert seen + rest.token_ids == whole.token_ids


@pytest.mark.parametrize("quantization", ["bnb-int8", "bnb-nf4"])
async def test_adapter_acts_on_quantized_weights(
    tiny_llava: Path, adapters: dict[str, AdapterFiles], quantization: str
) -> None:
    async with running(lambda: engine(tiny_llava, quantization=quantization)) as run:
        [base] = await run.run(job("base"))
        await run.engine.load_adapter(adapters[PLAIN])
        mixed = await run.run(job("beside"), with_adapter(job("adapted"), PLAIN))
        await run.engine.unload_adapter(PLAIN)
        [after] = await run.run(job("after"))

    assert mixed[0].token_ids == base.token_ids == after.token_ids
    assert mixed[1].finished
    assert mixed[1].token_ids != base.token_ids


def test_weights_that_turn_out_not_to_be_finite_are_refused(
    tiny_llava: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    spoilt = shutil.copytree(folders[PLAIN], tmp_path / "spoilt")
    adapter = open_adapter(spoilt, open_checkpoint(tiny_llava), "llava", 64, str)
    file = spoilt / "adapter_model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, file)  # after the look at it

    with pytest.raises(AdapterError, match="NaN or infinity"):
        read_weights(adapter)


async def test_ranks_that_share_a_model_refuse_adapters_and_go_on(
    tiny_llava: Path, adapters: dict[str, AdapterFiles]
) -> None:
    make = lambda: engine(tiny_llava, tensor_parallel_size=2)  # noqa: E731
    async with running(make) as run:
        with pytest.raises(AdapterError, match="on one rank only; take the vllm engine"):
            await asyncio.wait_for(run.engine.load_adapter(adapters[PLAIN]), 30)
        [answer] = await run.run(job("on"))
        assert answer.finished
