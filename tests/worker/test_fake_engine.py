import pytest

from services.protocol.errors import ErrorCode
from services.worker.engines.fake_engine import FakeEngine
from tests.worker.engine_contract import CHECKS, job, picture, running


def engine() -> FakeEngine:
    return FakeEngine("fake", context_length=300)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_engine_contract(check) -> None:
    await check(engine)


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
