import asyncio
import subprocess
import sys

from services.protocol.errors import ErrorCode
from services.worker.engines.fake_engine import FakeEngine
from services.worker.exit_codes import EXIT_ENGINE_BROKEN
from tests.worker.engine_harness import job, picture, running


def engine() -> FakeEngine:
    return FakeEngine("fake", context_length=300)


async def test_tokens_are_numbered_and_steered_by_the_prompt() -> None:
    async with running(engine) as started:
        (answer,) = await started.run(job("a", "[[n=3]]", max_tokens=64))
    assert answer.text == "zq0000 zq0001 zq0002 "
    assert answer.finished.finish_reason == "stop"


async def test_max_tokens_below_n_ends_with_length() -> None:
    async with running(engine) as started:
        (answer,) = await started.run(job("a", "[[n=9]]", max_tokens=2))
    assert answer.finished.finish_reason == "length"
    assert answer.finished.completion_tokens == 2


async def test_an_image_counts_its_patches_as_prompt_tokens() -> None:
    async with running(engine) as started:
        plain, pictured = await started.run(
            job("a", "two words"), job("b", "two words", images=[picture(0, 28, 42)])
        )
    assert pictured.finished.prompt_tokens - plain.finished.prompt_tokens == 2 * 3


async def test_fail_ends_that_request_alone() -> None:
    async with running(engine) as started:
        bad, good = await started.run(job("a", "[[n=8 fail=2]]"), job("b", "[[n=8]]"))
    assert bad.failed.code == ErrorCode.INTERNAL_ERROR
    assert len(bad.token_ids) == 2
    assert good.finished.completion_tokens == 8


async def test_knobs_beyond_every_bound_are_cut_and_harm_nobody() -> None:
    huge = "9" * 400
    async with running(engine) as started:
        wild = job("a", f"[[n={huge} slow=0 crash={huge}]]", max_tokens=3)
        odd, good = await started.run(wild, job("b", "[[n=8]]"))
        started.submit(job("c", f"[[t={huge} d={huge}]]"))
        started.engine.abort("c")
    assert len(odd.token_ids) == 3
    assert good.finished.completion_tokens == 8


async def test_stall_stops_the_steps_and_not_the_process() -> None:
    async with running(engine) as started:
        stalled = job("a", "[[n=8 stall=3 d=1]]")
        started.submit(stalled)
        await started.until(lambda: len(started.of("a").token_ids) == 4)
        steps = started.progress.log.count(("step_done",))
        started.submit(job("b", "[[n=1]]"))
        for _ in range(100):
            await asyncio.sleep(0)  # the loop turns, the engine does not
        assert started.progress.log.count(("step_done",)) == steps
        assert not started.of("b").events


def test_a_broken_stepper_ends_the_process() -> None:
    program = """
import asyncio
from services.worker.engines.fake_engine import FakeEngine
from tests.worker.engine_harness import RecordingProgress

async def main() -> None:
    engine = FakeEngine("fake")
    await engine.start(lambda events: None, RecordingProgress())
    engine.submit(None)
    await asyncio.Event().wait()

asyncio.run(main())
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == EXIT_ENGINE_BROKEN
    assert "engine.broken" in ended.stdout
