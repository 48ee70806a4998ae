"""Ratios are taken within a round, and a target without a value is not met."""

import msgspec
import pytest

from benchmarks import scenarios as s
from benchmarks.gateway_profile import summarise
from benchmarks.loop_lag import lag_p99_ms, parse_lag
from benchmarks.native_build import LoadErrors, LoadResult, Quantiles
from benchmarks.party import DIRECT, GALEN, LITELLM
from benchmarks.report import Run, RunFacts, render_report
from benchmarks.results import Results
from benchmarks.rounds import Measurement
from benchmarks.targets import Target, evaluate, requests_per_s


def _measurement(
    scenario: str, party: str, *, round_index: int = 0, rps: float = 1.0, **load: object
) -> Measurement:
    none = Quantiles(1.0, 1.0, 1.0, 1.0)
    result = LoadResult(
        secs=1, reqs=1, rps=rps, tok_s=64 * rps, ev_s=0, ttft_ms=none, total_ms=none, gap_ms=none,
        err=LoadErrors(), multi=0, maxconc=1, lg_cpu_s=0.1, tok_all=64_000, req_all=1_000,
        started=1_000,
    )  # fmt: skip
    return Measurement(
        scenario=scenario,
        party=party,
        round_index=round_index,
        load=msgspec.structs.replace(result, **load),
        cpu_s={"gateway": 0.2, "worker": 0.1},
        peak_rss_mb={"gateway": 120.0, "worker": 80.0},
        foreign_cores=0.1,
        load1=1.0,
        drain_s=0.5,
        wall_s=2.0,
    )


def _target(measurements: list[Measurement], target_id: str, unit: str) -> Target:
    found = evaluate(Results(measurements))
    return next(each for each in found if each.id == target_id and each.unit == unit)


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    measurements = [
        _measurement(s.C64_WHOLE, party, round_index=index, rps=rps)
        for index, (ours, theirs) in enumerate([(90, 2), (100, 4), (80, 1)])
        for party, rps in ((GALEN, ours), (LITELLM, theirs))
    ]

    ratios = Results(measurements).ratios(s.C64_WHOLE, GALEN, LITELLM, requests_per_s)
    target = _target(measurements, "T1", "x litellm")

    assert ratios == [45, 25, 80]
    assert (target.value, target.is_met, target.margin) == (45, True, 1.5)


def test_a_round_that_the_other_did_not_run_gives_no_ratio() -> None:
    measurements = [
        _measurement(s.C64_WHOLE, GALEN, round_index=0, rps=10),
        _measurement(s.C64_WHOLE, GALEN, round_index=1, rps=10),
        _measurement(s.C64_WHOLE, LITELLM, round_index=1, rps=2),
    ]

    ratios = Results(measurements).ratios(s.C64_WHOLE, GALEN, LITELLM, requests_per_s)

    assert ratios == [5]


def test_added_latency_is_ours_less_the_direct_median() -> None:
    measurements = [
        _measurement(s.C1_STREAM, DIRECT, ttft_ms=Quantiles(0.1, 0.2, 0.9, 1.0)),
        _measurement(s.C1_STREAM, GALEN, ttft_ms=Quantiles(0.9, 2.0, 6.1, 9.0)),
    ]

    p50, p99 = [each for each in evaluate(Results(measurements)) if each.id == "T3"]

    assert (p50.value, p50.is_met) == (pytest.approx(0.8), True)
    assert (p99.value, p99.is_met) == (pytest.approx(6.0), False)


def test_cpu_is_that_of_the_gateway_process_alone() -> None:
    measurements = [_measurement(s.C64_WHOLE, GALEN), _measurement(s.C1000_20MS, GALEN)]

    token, request, memory = [each for each in evaluate(Results(measurements)) if each.id == "T5"]

    assert token.value == pytest.approx(0.2e6 / 64_000)
    assert request.value == pytest.approx(200)
    assert (memory.value, memory.is_met) == (120, True)


@pytest.mark.parametrize(
    ("direction", "value", "expected"),
    [
        ("at_least", 30.0, True),
        ("at_least", 29.9, False),
        ("at_most", 30.0, True),
        ("at_most", 30.1, False),
        ("at_most", None, None),
    ],
)
def test_a_bound_is_kept_up_to_its_own_value(
    direction: str, value: float | None, expected: bool | None
) -> None:
    target = Target("T0", "what", 30, direction, "", value)  # type: ignore[arg-type]  # parametrised

    assert target.is_met is expected


def test_nothing_measured_means_no_target_is_met() -> None:
    assert {each.is_met for each in evaluate(Results([]))} == {None}


def test_lost_tokens_stand_in_capitals_on_the_page() -> None:
    facts = RunFacts("today", "run", "a machine", {"galen": "0"}, 1, left_out={"nginx": "not root"})
    lossy = _measurement(s.C64_STREAM, GALEN, err=LoadErrors(tok=3))

    page = render_report(Run(facts, [lossy], []))

    assert "**LOST, DOUBLED OR MISORDERED TOKENS: c64_stream: tok 3**" in page
    assert "Left out: nginx: not root" in page


def test_a_lag_percentile_is_interpolated_between_two_scrapes() -> None:
    name = "galen_gateway_event_loop_lag_seconds"
    page = f'{name}_bucket{{le="0.01"}} %d.0\n{name}_bucket{{le="0.02"}} %d.0\n'
    page += f'{name}_bucket{{le="+Inf"}} %d.0\n'
    before, after = parse_lag(page % (100, 100, 100)), parse_lag(page % (190, 200, 200))

    assert lag_p99_ms({}, {}) is None
    assert lag_p99_ms(before, before) is None
    assert lag_p99_ms(before, after) == pytest.approx(19.0)


def test_a_profile_counts_a_recursive_function_once() -> None:
    stacks = "main (run.py:1);walk (services/a.py:5);walk (services/a.py:9) 30\n"
    stacks += "main (run.py:2) 10\n"
    stacks += "thread (run.py:3);_worker (concurrent/futures/thread.py:81) 500\n"

    profile = summarise("c64_stream", stacks)

    assert profile.num_samples == 40
    own = {each.function: each.self_percent for each in profile.by_self}
    whole = {each.function: each.total_percent for each in profile.by_total}
    assert own == {"walk (services/a.py)": 75, "main (run.py)": 25}
    assert whole == {"walk (services/a.py)": 75}
