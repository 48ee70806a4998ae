"""What the gateway tells of an evaluation, in words and as a bar. Pure.

What does *not* live here: receipts of those that have ended (`receipts.py`).
"""

import html
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from services.ui.html_tables import Series, html_table, interval_plot
from services.ui.receipts import LEGACY, metric_rows, part, without_legacy

Told = Mapping[str, Any]
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
_HEADLINES = ("standard-v1/closed accuracy", "standard-v1/open recall")
_SLOW_START_S = 10
_SLOW_ANSWER_S = 45
_NO_JOB_WORKER = (
    "No job worker has taken it yet. Job workers run with `galen up`, or alone with `galen jobs`; "
    "tell the operator if this stays."
)
_NO_ANSWER = (
    "There is no answer yet. If this stays, no worker serves the model, or its queue is full: see "
    "the model's state in the chat."
)
_WORDS = {
    "validating": "Waiting for a job worker",
    "in_progress": "Running",
    "finalizing": "Scoring",
    "cancelling": "Being cancelled",
    "completed": "Done",
    "cancelled": "Cancelled; what was answered is kept, and the rest counts as wrong",
    "expired": "Its 24 hours are over; what was answered is kept, and the rest counts as wrong",
    "failed": "Failed",
}
METRICS_HEADER = ("metric", "version", "score (95 % interval)", "questions")


def is_live(told: Told) -> bool:
    """Whether an evaluation goes on."""
    return told["status"] not in _ENDED


def can_be_cancelled(told: Told) -> bool:
    """Whether cancelling it changes something."""
    return told["status"] in ("validating", "in_progress")


def label(told: Told) -> str:
    """Return an evaluation as an entry of a menu."""
    counts = told["request_counts"]
    return (
        f"{told['status']}: {told['benchmark']}, {counts['total']} questions, {told['model']} "
        f"({_moment(told['created_at'])}, {told['id'][-6:]})"
    )


def state(told: Told, now_s: float) -> str:
    """Return how an evaluation stands, in a sentence or two."""
    said = [f"{_WORDS.get(told['status'], told['status'])}."]
    counts = told["request_counts"]
    age_s = now_s - told["created_at"]
    if told["status"] == "validating" and age_s > _SLOW_START_S:
        said.append(_NO_JOB_WORKER)
    num_done = counts["completed"] + counts["failed"]
    if told["status"] == "in_progress" and not num_done and age_s > _SLOW_ANSWER_S:
        said.append(_NO_ANSWER)
    problems: Sequence[Told] = part(told, "errors").get("data", ())
    said += [_problem(each) for each in problems]
    if told.get("problem"):
        said.append(f"There are no scores: {told['problem']}.")
    if counts["failed"] and told["status"] == "completed":
        said.append("Some questions have no answer; they count as wrong. See the errors' file.")
    return " ".join(said)


def progress(told: Told, now_s: float) -> str:
    """Return how far an evaluation is, as HTML with a bar."""
    counts = told["request_counts"]
    total, completed, failed = counts["total"], counts["completed"], counts["failed"]
    done = completed + failed
    title = f"{told['benchmark']} with {told['model']}"
    sentence = html.escape(state(told, now_s))
    css = ' class="problem"' if told["status"] == "failed" else ""
    return (
        f"<p><strong>{html.escape(title)}</strong></p>"
        f'<progress max="{max(total, 1)}" value="{done}" aria-label="Questions that are done">'
        f"</progress><p>{completed} answered, {failed} failed, of {total} questions</p>"
        f"<p{css}>{sentence}</p>"
    )


def scores(told: Told) -> str:
    """Return an evaluation's scores as HTML: a plot and a table; running ones are named so."""
    metrics = told.get("metrics")
    if not metrics:
        return "<p>There are no scores yet.</p>" if is_live(told) else ""
    num, total = told.get("num_scored"), told["request_counts"]["total"]
    note, caption = "", "Scores"
    if told.get("receipt_status") == "partial":
        caption = f"Running scores, of {num} of {total} questions"
        note = f"<p><strong>{caption}.</strong> They change until the end.</p>"
    elif told.get("receipt_status") == "incomplete":
        note = "<p><strong>Incomplete:</strong> questions without an answer count as wrong.</p>"
    return note + score_tables(caption, [Series(told["model"], metrics)], metric_rows(metrics))


def score_tables(
    caption: str,
    runs: Sequence[Series],
    rows: Sequence[Sequence[str]],
    header: Sequence[str] = METRICS_HEADER,
) -> str:
    """Return plot and table of `standard-v1`; what LLaVA-Med's scripts computed is folded away."""
    by_version = [[row for row in rows if (row[1] == LEGACY) is old] for old in (False, True)]
    shown = [Series(run.name, without_legacy(run.metrics)) for run in runs]
    folded = html_table(f"{caption}, {LEGACY}", header, by_version[True])
    return (
        interval_plot(f"{caption}, with their 95 % intervals", shown)
        + html_table(caption, header, by_version[False])
        + f"<details><summary>{LEGACY}: as LLaVA-Med's scripts computed them</summary>{folded}"
        "</details>"
    )


def list_table(evaluations: Sequence[Told]) -> str:
    """Return evaluations as a table in HTML, the newest first."""
    rows = [
        [
            told["id"], told["benchmark"], told["model"], str(told["request_counts"]["total"]),
            told["status"], *(_headline(told, name) for name in _HEADLINES),
            _moment(told["created_at"]),
        ]
        for told in evaluations
    ]  # fmt: skip
    header = (
        "evaluation", "benchmark", "model", "questions", "state", "closed accuracy", "open recall",
        "begun (UTC)",
    )  # fmt: skip
    return html_table("Evaluations, the newest first", header, rows) or "<p>There are none yet.</p>"


def _headline(told: Told, name: str) -> str:
    value = part(told, "metrics").get(name)
    if value is None:
        return "-"
    mark = " so far" if told.get("receipt_status") == "partial" else ""
    return f"{100 * value['mean']:.1f} %{mark}"


def _problem(problem: Told) -> str:
    text = str(problem.get("message") or problem.get("code") or "")
    sentence = text[:1].upper() + text[1:]
    return sentence if sentence.endswith(".") else f"{sentence}."


def _moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
