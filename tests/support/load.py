"""A steady load of mixed requests, running while a fault is injected."""

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence

from tests.support.client import Client
from tests.support.history import Record, check, describe

PROMPT = "[[n=64 t=0 d=20]]"
"""64 tokens in about 1.3 s."""


class Load:
    """`num_requests` requests, at most `at_once` of them under way, every third not streamed."""

    def __init__(
        self,
        client: Client,
        num_requests: int,
        *,
        prompts: Sequence[str] = (PROMPT,),
        at_once: int = 24,
        is_streamed: Callable[[int], bool] = lambda i: i % 3 != 2,
    ) -> None:
        self.client = client
        self._todo: Iterator[tuple[int, str]] = zip(
            range(num_requests), itertools.cycle(prompts), strict=False
        )
        self._is_streamed = is_streamed
        self._at_once = at_once
        self._tasks: list[asyncio.Task[None]] = []
        self._is_enough = False
        self.records: list[Record] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._ask_on()) for _ in range(self._at_once)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask_on(self) -> None:
        for index, prompt in self._todo:
            if self._is_enough:
                return
            await self.client.ask(prompt, stream=self._is_streamed(index), into=self.records)

    async def ended(self) -> list[Record]:
        """Return the records when all requests are over."""
        await asyncio.gather(*self._tasks)
        return self.records

    async def enough(self) -> list[Record]:
        """Begin no more requests; return the records when those under way are over."""
        self._is_enough = True
        return await self.ended()

    @property
    def num_streaming(self) -> int:
        """Streams with a token and without an end at this moment."""
        return sum(r.stream and r.num_tokens > 0 and r.terminal is None for r in self.records)


def assert_correct(records: Sequence[Record]) -> None:
    """Fail with a readable list where the histories hold a violation."""
    violations = check(records)
    assert not violations, describe(violations)


def assert_all_exact(records: Sequence[Record]) -> None:
    """Fail unless every request ended well with its exact answer."""
    assert_correct(records)
    errors = [(r.label, r.status, r.error_code) for r in records if not r.is_complete]
    assert not errors, f"{len(errors)} of {len(records)} ended with an error: {errors[:5]}"
