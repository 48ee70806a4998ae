"""How fast endpoints are asked: minutes of virtual time with a token bucket, or with few places."""

import asyncio
import random
from dataclasses import dataclass

import pytest

from services.endpoint_client.pace import Pace
from tests.support.virtual_time import VirtualTimeLoop

AT_ONCE, LEARNT_S, LASTS_S = 64, 15.0, 120.0
REFUSAL_S = 0.005


@dataclass
class Bucket:
    """As `benchmarks/generation.py`: one second's requests, at the most, are held."""

    per_s: float
    held: float
    filled_s: float = 0.0

    def take(self, now_s: float) -> bool:
        held = self.held + (now_s - self.filled_s) * self.per_s
        self.held, self.filled_s = min(held, max(1.0, self.per_s)), now_s
        if self.held < 1:
            return False
        self.held -= 1
        return True

    def leave(self) -> None:
        """What was taken is gone."""


@dataclass
class Places:
    """So many at once, as a gateway's queue."""

    num: int

    def take(self, _now_s: float) -> bool:
        self.num -= 1
        if self.num < 0:
            self.num += 1
            return False
        return True

    def leave(self) -> None:
        self.num += 1


@dataclass
class Seen:
    """Of the time after learning."""

    num_answered: int = 0
    num_refused: int = 0

    @property
    def per_s(self) -> float:
        return self.num_answered / (LASTS_S - LEARNT_S)


def ask_for_long(
    endpoint: Bucket | Places, answer_s: float, retry_after_s: float | None, seed: int = 0
) -> Seen:
    seen = Seen()

    async def ask_on(pace: Pace, loop: asyncio.AbstractEventLoop) -> None:
        while loop.time() < LASTS_S:
            async with pace.turn() as began_s:
                is_taken = endpoint.take(loop.time())
                await asyncio.sleep(answer_s if is_taken else REFUSAL_S)
            if is_taken:
                endpoint.leave()
                pace.succeeded(began_s)
            else:
                pace.refused(began_s, retry_after_s)
            if LEARNT_S <= loop.time() < LASTS_S:
                seen.num_answered += is_taken
                seen.num_refused += not is_taken

    async def ask_all() -> None:
        pace, loop = Pace(AT_ONCE), asyncio.get_running_loop()
        await asyncio.gather(*(ask_on(pace, loop) for _ in range(AT_ONCE)))

    random.seed(seed)
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(ask_all())
    return seen


@pytest.mark.parametrize("retry_after_s", [1.0, None])
@pytest.mark.parametrize(
    ("per_s", "answer_s"), [(5.0, 0.05), (5.0, 0.5), (20.0, 0.5), (20.0, 2.0), (60.0, 0.5)]
)
def test_what_is_allowed_per_second_is_nearly_used_up(
    per_s: float, answer_s: float, retry_after_s: float | None
):
    seen = ask_for_long(Bucket(per_s, per_s), answer_s, retry_after_s)
    assert seen.per_s >= 0.95 * per_s
    assert seen.num_refused <= 0.1 * seen.num_answered


@pytest.mark.parametrize("retry_after_s", [1.0, None])
@pytest.mark.parametrize("answer_s", [0.5, 2.0])
@pytest.mark.parametrize("num_places", [1, 4, 16])
def test_few_places_are_used_without_hammering(
    num_places: int, answer_s: float, retry_after_s: float | None
):
    seen = ask_for_long(Places(num_places), answer_s, retry_after_s)
    assert seen.per_s >= 0.55 * num_places / answer_s
    assert seen.num_refused <= 0.2 * seen.num_answered


def test_an_endpoint_that_was_away_gets_its_rate_again():
    @dataclass
    class Away(Bucket):
        def take(self, now_s: float) -> bool:
            is_away = 20 < now_s < 60
            return not is_away and super().take(now_s)

    seen = ask_for_long(Away(20.0, 20.0), 0.5, None)
    assert seen.per_s >= 0.8 * 20.0 * (LASTS_S - LEARNT_S - 40) / (LASTS_S - LEARNT_S)
    assert seen.num_refused < 200
