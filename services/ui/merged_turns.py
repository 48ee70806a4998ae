"""Several answers streamed at once."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

from services.ui.conversation import Turn


async def merged_turns(
    answers: Sequence[AsyncGenerator[Turn]],
) -> AsyncGenerator[tuple[int, Turn]]:
    """Yield each turn with the number of its answer, as they come.

    Closing the generator closes all answers.
    """
    under_way = {asyncio.create_task(_next(each)): side for side, each in enumerate(answers)}
    try:
        while under_way:
            done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                side = under_way.pop(task)
                turn = task.result()
                if turn is not None:
                    under_way[asyncio.create_task(_next(answers[side]))] = side
                    yield side, turn
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        for each in answers:
            await each.aclose()


async def _next(answer: AsyncGenerator[Turn]) -> Turn | None:
    """Return the next turn; None: there is none."""
    return await anext(answer, None)
