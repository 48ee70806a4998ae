"""How things stand, as tables for people."""

import math
from datetime import UTC, datetime, timedelta

from services.ui import status_view
from services.ui.history_chart import history_chart
from services.ui.html_tables import html_table
from services.ui.rates import ModelRate, Point

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
GIB = 1024**3


def test_what_comes_from_outside_is_text_and_never_markup() -> None:
    shown = html_table("<b>", ("<i>",), [("<script>", 'a"b')], "-")

    assert "<script>" not in shown
    assert "<i>" not in shown
    assert "<b>" not in shown
    assert "&lt;script&gt;" in shown


def test_a_table_names_its_rows_and_columns_for_screen_readers() -> None:
    shown = html_table("Workers", ("worker", "state"), [("w-1", "ready")], "-")

    assert "<caption>Workers</caption>" in shown
    assert '<th scope="col">state</th>' in shown
    assert '<th scope="row">w-1</th><td>ready</td>' in shown


def test_an_empty_table_is_a_sentence() -> None:
    assert "<table" not in status_view.workers_table([])
    assert "No worker is there." in status_view.workers_table([])


def test_a_queue_that_nothing_leaves_says_that_its_wait_is_not_known() -> None:
    stuck = {"model": "med", "lane": "batch", "waiting": 7, "rate_per_s": None, "wait_s": None}
    going = {"model": "med", "lane": "interactive", "waiting": 2, "rate_per_s": 4, "wait_s": 0.5}

    shown = status_view.queues_table([stuck, going])

    assert shown.count("not known") == 2
    assert "4.00 a second" in shown
    assert "0.5 s" in shown


def test_rates_of_a_quiet_model_and_of_a_very_slow_one_can_be_told_apart() -> None:
    rates = [
        ModelRate("quiet", 0.0, 0.0, 0, 0, None, None),
        ModelRate("slow", 1.5, 20.0, 1, 2, 0.25, math.inf),
    ]

    shown = status_view.rates_view(59.6, rates, [])

    assert "Rates over the last 60 s" in shown
    assert "<td>0</td><td>-</td><td>-</td>" in shown
    assert "<td>250 ms</td><td>above all buckets</td>" in shown


def test_memory_in_use_is_told_of_hosts_cards_and_a_limited_gateway() -> None:
    card = {"index": 0, "name": "H200", "total_bytes": 140 * GIB, "free_bytes": 35 * GIB}
    host = {
        "host": "gpu-1", "total_memory_bytes": 64 * GIB, "free_memory_bytes": 48 * GIB,
        "cards": [card],
    }  # fmt: skip
    limited = {"memory_bytes": GIB, "memory_limit_bytes": 4 * GIB}
    unlimited = {"memory_bytes": 0, "memory_limit_bytes": 0}

    shown = status_view.cards_table([host], limited)

    assert "<td>16.0 GiB</td><td>64.0 GiB</td><td>25%</td>" in shown
    assert "card 0: H200</td><td>105.0 GiB</td><td>140.0 GiB</td><td>75%</td>" in shown
    assert "this gateway" in shown
    assert "this gateway" not in status_view.cards_table([host], unlimited)


def test_errors_say_when_they_last_came() -> None:
    def error(ago: timedelta) -> dict[str, object]:
        last = (NOW - ago).timestamp()
        return {"code": "queue_full", "model": "", "status": 429, "count": 3, "last": last}

    ages = [timedelta(seconds=8), timedelta(minutes=30), timedelta(days=1)]

    shown = status_view.errors_table([error(age) for age in ages], NOW)

    assert "8 s ago" in shown
    assert "30 min ago" in shown
    assert "2026-11-28 12:00 UTC" in shown


def test_the_chart_says_in_words_what_it_draws() -> None:
    points = [Point(6.0, 4.0, is_joined=True), Point(0.0, 20.0, is_joined=True)]

    chart = history_chart(points)

    assert 'role="img"' in chart
    assert chart.count("now 20.0, at most 20.0") == 2  # for eyes and for screen readers
    assert 'points="594.0,98.8 600.0,14.0"' in chart


def test_the_chart_has_a_gap_where_nobody_watched() -> None:
    watched = [True, True, False, True, True]
    points = [Point(50.0 - 10 * n, 1.0, is_joined=each) for n, each in enumerate(watched)]

    assert history_chart(points).count("<polyline") == 2
    assert history_chart(points[:1]) == ""
