"""Rates and quantiles from the gateway's page of metrics at different moments."""

import math

import pytest
from prometheus_client import generate_latest

from services.gateway.metrics import GatewayMetrics
from services.ui.model_figures import Figures, figures_by_model
from services.ui.rates import History, Reading, quantile_s


def page_of(metrics: GatewayMetrics) -> str:
    return generate_latest(metrics.registry).decode()


def reading(at_s: float, tokens: float, model: str = "med") -> Reading:
    return Reading(at_s, {model: Figures(completion_tokens=tokens)})


def test_figures_are_read_from_the_gateways_own_page() -> None:
    metrics = GatewayMetrics()
    metrics.prompt_tokens.labels("med").inc(600)
    metrics.completion_tokens.labels("med").inc(40)
    metrics.finished.labels("med", "stop").inc(2)
    metrics.finished.labels("med", "length").inc(1)
    for wait_s in (0.02, 0.02, 300.0):
        metrics.ttft.labels("med").observe(wait_s)

    found = figures_by_model(page_of(metrics))["med"]

    assert (found.prompt_tokens, found.completion_tokens, found.finished) == (600, 40, 3)
    assert found.ttft[0.01] == 0
    assert found.ttft[0.025] == found.ttft[120.0] == 2
    assert found.ttft[math.inf] == 3


def test_what_is_no_page_of_metrics_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="invalid metric name"):
        figures_by_model("<html>not found</html>")


def test_rates_are_those_of_the_last_minute_only() -> None:
    history = History()
    for at_s, tokens in ((0.0, 0.0), (50.0, 5000.0), (110.0, 5600.0)):
        history.add(reading(at_s, tokens))

    (rate,) = history.rates()

    assert history.covered_s() == 60
    assert rate.generated_per_s == 10  # and not those of the first 50 s


def test_quantiles_are_of_the_waits_between_two_readings() -> None:
    metrics, history = GatewayMetrics(), History()
    for _ in range(100):
        metrics.ttft.labels("med").observe(50.0)
    history.add(Reading(0.0, figures_by_model(page_of(metrics))))
    for _ in range(10):
        metrics.ttft.labels("med").observe(0.04)
    history.add(Reading(10.0, figures_by_model(page_of(metrics))))

    (rate,) = history.rates()

    assert rate.first_tokens == 10
    assert rate.ttft_p50_s == pytest.approx(0.0375)  # the middle of 0.025 to 0.05
    assert rate.ttft_p95_s == pytest.approx(0.04875)


def test_a_quantile_lies_evenly_within_its_bucket() -> None:
    bounds = {1.0: 10.0, 2.0: 30.0, 4.0: 40.0, math.inf: 40.0}

    assert quantile_s(0.25, bounds) == pytest.approx(1.0)
    assert quantile_s(0.5, bounds) == pytest.approx(1.5)
    assert quantile_s(1.0, bounds) == pytest.approx(4.0)


def test_a_quantile_above_all_buckets_is_infinite_and_one_of_nothing_is_none() -> None:
    assert quantile_s(0.95, {1.0: 1.0, math.inf: 10.0}) == math.inf
    assert quantile_s(0.5, {1.0: 0.0, math.inf: 0.0}) is None
    assert quantile_s(0.5, {}) is None


def test_a_restarted_gateway_begins_anew_and_never_gives_a_negative_rate() -> None:
    history = History()
    for at_s, tokens in ((0.0, 900.0), (3.0, 990.0), (6.0, 5.0), (9.0, 35.0)):
        history.add(reading(at_s, tokens))

    (rate,) = history.rates()

    assert history.covered_s() == 3
    assert rate.generated_per_s == 10


def test_a_gateway_that_lost_a_model_at_its_restart_begins_anew() -> None:
    history = History()
    history.add(reading(0.0, 900.0, "old"))
    history.add(reading(3.0, 0.0, "new"))

    assert history.rates() == []


def test_nothing_is_said_before_the_second_reading_or_after_a_long_absence() -> None:
    history = History()
    assert (history.covered_s(), history.rates(), history.points()) == (0, [], [])

    history.add(reading(0.0, 0.0))
    assert (history.covered_s(), history.rates(), history.points()) == (0, [], [])

    history.add(reading(300.0, 900.0))
    assert history.covered_s() == 0
    assert history.rates() == []


def test_ten_minutes_are_kept_and_what_nobody_watched_is_marked() -> None:
    history = History()
    for number in range(260):
        history.add(reading(number * 3.0, number * 30.0))
    history.add(reading(259 * 3.0 + 120, 259 * 30.0))

    points = history.points()

    assert points[0].ago_s <= 600
    assert [point.tokens_per_s for point in points[-3:]] == [10, 10, 0]
    assert [point.is_joined for point in points[-3:]] == [True, True, False]


def test_two_readings_at_nearly_the_same_moment_are_one() -> None:
    history = History()
    for at_s, tokens in ((0.0, 0.0), (3.0, 30.0), (3.01, 60.0)):
        history.add(reading(at_s, tokens))

    assert [point.tokens_per_s for point in history.points()] == [10]
