"""The model of the queue, beside the formula for what it must give where there is one."""

import random
from statistics import fmean

import pytest

from benchmarks.queue_model import (
    Cluster,
    Loss,
    QueueModel,
    Traffic,
    erlang_c,
    mean_wait_s,
    most_load,
    wait_quantile_s,
)

_MEAN_S = 2.0


def exponential(draw: random.Random) -> float:
    return draw.expovariate(1 / _MEAN_S)


def constant(_: random.Random) -> float:
    return _MEAN_S


def test_the_formula_has_its_known_values() -> None:
    # tables of the Erlang C formula: 1 server waits as often as it is busy; 10 servers at 8 erlang
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(10, 0.8) == pytest.approx(0.4092, abs=1e-4)
    assert erlang_c(2, 0.5) == pytest.approx(1 / 3)
    assert 0.0 < erlang_c(10_000, 0.99) < 0.3  # and overflows nowhere


@pytest.mark.parametrize(
    ("workers", "slots", "load"), [(1, 1, 0.6), (2, 4, 0.8), (10, 2, 0.9), (10, 8, 0.9)]
)
def test_waiting_is_what_erlang_says(workers: int, slots: int, load: float) -> None:
    servers = workers * slots
    model = QueueModel(Cluster(workers, slots), seed=1)
    per_s = servers * load / _MEAN_S
    seconds = 80_000 / per_s

    model.run(seconds, [Traffic("t", per_s, exponential)])

    seen = [each for each in model.started if each.arrived_s > seconds / 10]
    share = fmean(each.waited_s > 1e-9 for each in seen)
    mean = fmean(each.waited_s for each in seen)
    waits = sorted(each.waited_s for each in seen)
    assert share == pytest.approx(erlang_c(servers, load), rel=0.12)
    p95 = wait_quantile_s(servers, load, _MEAN_S, 0.95)
    assert waits[int(0.95 * len(waits))] == pytest.approx(p95, rel=0.25)
    assert mean == pytest.approx(mean_wait_s(servers, load, _MEAN_S), rel=0.25)


def test_the_largest_load_is_the_one_that_just_keeps_the_limit() -> None:
    load = most_load(32, _MEAN_S, 0.99, 1.0)

    assert wait_quantile_s(32, load, _MEAN_S, 0.99) == pytest.approx(1.0, abs=1e-6)
    assert most_load(320, _MEAN_S, 0.99, 1.0) > load  # many share better than few


def test_fair_shares_change_who_waits_and_not_how_much_in_all() -> None:
    def mean(*, is_fair: bool) -> float:
        model = QueueModel(Cluster(4, 2, is_fair=is_fair), seed=2)
        model.run(20_000, [Traffic(f"t{n}", 0.9, exponential) for n in range(4)])
        return fmean(each.waited_s for each in model.started)

    assert mean(is_fair=True) == pytest.approx(mean(is_fair=False), rel=0.1)


def test_a_tenant_that_floods_the_queue_waits_for_itself() -> None:
    def light_wait(*, is_fair: bool) -> float:
        model = QueueModel(Cluster(2, 4, is_fair=is_fair), seed=3)
        model.run(300, [Traffic("light", 0.5, constant), Traffic("flood", 20.0, constant)])
        return fmean(each.waited_s for each in model.started if each.tenant == "light")

    assert light_wait(is_fair=True) < 2 * _MEAN_S
    assert light_wait(is_fair=False) > 50


def test_batch_fills_what_interactive_leaves_and_nothing_reserved() -> None:
    model = QueueModel(Cluster(1, 8, reserved=2), seed=4)
    model.run(500, [Traffic("t", 0.3, constant), Traffic("b", 10.0, constant, "batch")])

    interactive = [each for each in model.started if each.lane == "interactive"]
    batch = [each for each in model.started if each.lane == "batch"]
    # as if the two reserved slots were all there is for them
    waits = fmean(each.waited_s > 0 for each in interactive)
    assert waits == pytest.approx(erlang_c(2, 0.3), abs=0.06)
    assert len(batch) * _MEAN_S / 500 == pytest.approx(
        6, rel=0.05
    )  # six of eight slots, all the time


def test_requests_of_a_dead_worker_go_on_where_they_stood() -> None:
    model = QueueModel(Cluster(2, 4), seed=5)
    trace = [(0.0, 10.0)] * 6
    model.run(60, losses=[Loss(4.0, 1, notice_s=1.0, again_s=0.5, back_s=20.0)], trace=trace)

    assert len(model.interrupted) == 3
    # one slot of the other worker is free: one goes on at once, two when the others end
    assert sorted(round(each.ends_s, 6) for each in model.interrupted) == [11.5, 16.5, 16.5]
    assert sorted(round(each.paused_s, 6) for each in model.interrupted) == [1.5, 6.5, 6.5]
    assert all(each.runs == 2 for each in model.interrupted)


def test_a_worker_that_comes_back_takes_requests() -> None:
    model = QueueModel(Cluster(1, 1), seed=6)
    model.run(30, losses=[Loss(1.0, 1, 0.0, 0.0, back_s=10.0)], trace=[(0.0, 3.0), (5.0, 1.0)])

    assert sorted(each.ends_s for each in model.started) == [13.0, 14.0]


def test_the_same_seed_gives_the_same_day() -> None:
    def waits(seed: int) -> list[float]:
        model = QueueModel(Cluster(2, 2), seed)
        model.run(200, [Traffic("t", 1.8, exponential)])
        return [each.waited_s for each in model.started]

    assert waits(7) == waits(7) != waits(8)
