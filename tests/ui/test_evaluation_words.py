"""How an evaluation stands, in words, and its figures as HTML in which no text is markup."""

from xml.etree import ElementTree

import pytest

from services.ui.evaluation_words import (
    can_be_cancelled,
    is_live,
    label,
    list_table,
    progress,
    scores,
    state,
)
from services.ui.html_tables import Series, html_table, interval_plot, warning
from tests.ui.evaluated import receipt, told

EVIL = "<script>alert('x')</script>"


@pytest.mark.parametrize(
    ("status", "goes_on", "cancels"),
    [
        ("validating", True, True),
        ("in_progress", True, True),
        ("finalizing", True, False),
        ("cancelling", True, False),
        ("completed", False, False),
        ("failed", False, False),
        ("expired", False, False),
        ("cancelled", False, False),
    ],
)
def test_states(status: str, goes_on: bool, cancels: bool) -> None:
    assert is_live(told(status)) is goes_on
    assert can_be_cancelled(told(status)) is cancels
    assert state(told(status), 1_001)[0].isupper()


def test_one_that_no_job_worker_takes_says_so_after_a_while() -> None:
    assert state(told("validating"), 1_005) == "Waiting for a job worker."
    assert "`galen jobs`" in state(told("validating"), 1_011)


def test_one_without_an_answer_says_so_after_a_while() -> None:
    none = {"total": 32, "completed": 0, "failed": 0}

    assert state(told(request_counts=none), 1_010) == "Running."
    assert "no worker serves the model" in state(told(request_counts=none), 1_060)
    assert state(told(), 1_060) == "Running."


def test_a_failed_one_says_why() -> None:
    problems = {"data": [{"code": "file_not_found", "message": "the input file is gone"}]}

    assert state(told("failed", errors=problems), 1_001) == "Failed. The input file is gone."


def test_answers_that_could_not_be_scored_are_said() -> None:
    assert "no scores: it lacks packages." in state(
        told("completed", problem="it lacks packages"), 0
    )


def test_the_bar_tells_how_many_are_done() -> None:
    found = ElementTree.fromstring(f"<div>{progress(told(), 1_001)}</div>")

    bar = found.find("progress")
    assert bar is not None
    assert (bar.get("max"), bar.get("value")) == ("32", "8")
    assert bar.get("aria-label")
    assert "7 answered, 1 failed, of 32 questions" in "".join(found.itertext())


def test_running_scores_say_what_they_are_of() -> None:
    metrics = receipt()["metrics"]
    running = told(metrics=metrics, receipt_status="partial", num_scored=8)

    assert "Running scores, of 8 of 32 questions" in scores(running)
    assert "Running" not in scores(told("completed", metrics=metrics, receipt_status="complete"))
    assert "Incomplete" in scores(told("cancelled", metrics=metrics, receipt_status="incomplete"))
    assert scores(told()) == "<p>There are no scores yet.</p>"


def test_scores_are_a_plot_and_tables_that_can_be_parsed() -> None:
    metrics = receipt()["metrics"]

    found = ElementTree.fromstring(f"<div>{scores(told(metrics=metrics))}</div>")

    svg = found.find(".//svg")
    assert svg is not None
    assert svg.get("role") == "img"
    assert len(svg.findall(".//rect")) == sum("standard-v1" in name for name in metrics)
    assert len(found.findall(".//tbody/tr")) == len(metrics)
    assert all(each.find("caption") is not None for each in found.findall(".//table"))


def test_two_runs_are_two_bars_with_a_legend() -> None:
    runs = [Series("one", receipt()["metrics"]), Series("two", receipt({})["metrics"])]

    found = ElementTree.fromstring(interval_plot("both", runs))

    bars = found.findall(".//rect")
    assert len(bars) == 2 * len(runs[0].metrics)
    assert [float(bar.get("width", "")) for bar in bars[:2]] == [330.0, 0.0]
    assert "".join(found.find("figcaption").itertext()) == "onetwo"  # pyright: ignore[reportOptionalMemberAccess] - it fails else


def test_no_text_becomes_markup() -> None:
    evil = told(
        model=EVIL, benchmark=EVIL, metrics={EVIL: {"mean": 1, "low": 1, "high": 1, "num": 1}}
    )
    made = [
        progress(evil, 0), scores(evil), list_table([evil]),
        html_table(EVIL, [EVIL], [[EVIL, EVIL]]),
        warning(EVIL, [EVIL]), interval_plot(EVIL, [Series(EVIL, evil["metrics"])] * 2),
    ]  # fmt: skip

    for text in made:
        assert "<script" not in text
        assert "&lt;script&gt;" in text
        ElementTree.fromstring(f"<div>{text}</div>")


def test_the_list_has_the_figures_that_papers_report() -> None:
    running = told(metrics=receipt()["metrics"], receipt_status="partial")

    text = list_table([running, told("failed")])

    assert text.count("100.0 % so far") == 2
    assert "<td>failed</td>" in text
    assert list_table([]) == "<p>There are none yet.</p>"
    assert label(running) == "in_progress: b/test, 32 questions, m (1970-01-01 00:16, 6789ab)"
