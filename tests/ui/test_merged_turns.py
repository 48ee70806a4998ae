"""Several answers streamed at once."""

import asyncio
from collections.abc import AsyncGenerator

from services.ui.conversation import Turn
from services.ui.merged_turns import merged_turns


async def test_a_slow_answer_does_not_hold_up_a_quick_one() -> None:
    may_go_on = asyncio.Event()

    async def slow() -> AsyncGenerator[Turn]:
        await may_go_on.wait()
        yield Turn("q", answer="slow")

    async def quick() -> AsyncGenerator[Turn]:
        for word in "ab":
            yield Turn("q", answer=word)
        may_go_on.set()

    seen = [(side, turn.answer) async for side, turn in merged_turns([slow(), quick()])]

    assert seen == [(1, "a"), (1, "b"), (0, "slow")]


async def test_an_answer_that_failed_does_not_end_the_other() -> None:
    async def failing() -> AsyncGenerator[Turn]:
        yield Turn("q", state="failed")

    async def whole() -> AsyncGenerator[Turn]:
        for number in range(5):
            yield Turn("q", answer=str(number))
        yield Turn("q", state="complete")

    seen = [(side, turn.state) async for side, turn in merged_turns([failing(), whole()])]

    assert (0, "failed") in seen
    assert seen[-1] == (1, "complete")
    assert len(seen) == 7


async def test_closing_closes_both_answers_wherever_they_are() -> None:
    closed: list[str] = []

    async def endless(name: str, wait: asyncio.Event | None) -> AsyncGenerator[Turn]:
        try:
            while True:
                yield Turn("q", answer=name)
                if wait is not None:
                    await wait.wait()
        finally:
            closed.append(name)

    turns = merged_turns([endless("waiting", asyncio.Event()), endless("running", None)])
    for _ in range(4):
        await anext(turns)
    await turns.aclose()

    assert sorted(closed) == ["running", "waiting"]
