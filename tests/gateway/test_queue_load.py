"""Drain rates, waiting times and when clients are told to come again."""

import pytest

from services.gateway.queue_load import QueueLoad

FIELD = "m|interactive"


def beat(load: QueueLoad, *, per_s: int, beats: int, claimed: int = 0, began: int = 100) -> int:
    """Let so many seconds pass; returns what was claimed in all."""
    for second in range(beats):
        load.measure({FIELD: 40}, {FIELD: claimed}, began + second)
        claimed += per_s
    return claimed


def test_rate_is_what_workers_take() -> None:
    load = QueueLoad()
    beat(load, per_s=20, beats=5)
    assert load.rate_per_s(FIELD) == pytest.approx(20)
    assert load.wait_s(FIELD, 40) == pytest.approx(2.0)


def test_rate_follows_a_change_within_its_memory() -> None:
    load = QueueLoad()
    claimed = beat(load, per_s=20, beats=10)
    beat(load, per_s=2, beats=30, claimed=claimed, began=110)
    assert load.rate_per_s(FIELD) == pytest.approx(2, rel=0.6)


def test_retry_after_is_the_queue_over_the_rate_and_jittered() -> None:
    load = QueueLoad()
    beat(load, per_s=10, beats=5)
    waits = {load.retry_after_s(FIELD, 200) for _ in range(200)}
    assert len(waits) > 100
    assert 15 <= min(waits) < 17
    assert 23 < max(waits) <= 25


@pytest.mark.parametrize(("waiting", "expected"), [(1, 1.0), (1_000_000, 60.0)])
def test_retry_after_has_bounds(waiting: int, expected: float) -> None:
    load = QueueLoad()
    beat(load, per_s=10, beats=5)
    assert load.retry_after_s(FIELD, waiting) == expected


def test_a_lane_that_stands_still_is_worth_the_longest_wait() -> None:
    load = QueueLoad()
    assert load.retry_after_s(FIELD, 5) < 10  # not measured yet
    beat(load, per_s=0, beats=5)
    assert load.wait_s(FIELD, 5) is None
    assert load.retry_after_s(FIELD, 5) >= 45


def test_counts_that_fall_back_are_no_negative_rate() -> None:
    load = QueueLoad()
    beat(load, per_s=10, beats=3)
    beat(load, per_s=10, beats=3, began=103)  # Redis lost its data
    rate = load.rate_per_s(FIELD)
    assert rate is not None
    assert 0 < rate <= 10
