"""How things stand, as tables: what the gateway's administration answers, for people. Pure.

What does *not* live here: asking (`status_reader.py`).
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from services.ui.history_chart import history_chart
from services.ui.html_tables import html_table
from services.ui.rates import ModelRate, Point

_GIB = 1024**3
_UNKNOWN = "not known"
Row = Mapping[str, Any]  # what our own routes answer


def workers_table(workers: Sequence[Row]) -> str:
    """Return who serves which model, and how much of it is in use."""
    rows = [
        (
            each["id"], each["model"], each["engine"], each["state"],
            f"{each['running']} of {each['slots']}", each["host"],
        )
        for each in sorted(workers, key=lambda each: (each["model"], each["id"]))
    ]  # fmt: skip
    titles = ("worker", "model", "engine", "state", "running", "host")
    return html_table("Workers", titles, rows, "No worker is there.")


def queues_table(queues: Sequence[Row]) -> str:
    """Return what waits in each lane, and for about how long."""
    rows = [
        (
            each["model"], each["lane"], str(each["waiting"]),
            _figure(each["rate_per_s"], "{:.2f} a second"), _figure(each["wait_s"], "{:.1f} s"),
        )
        for each in queues
    ]  # fmt: skip
    titles = ("model", "lane", "waiting", "taken by workers", "a new request waits")
    return html_table("Queues", titles, rows, "Nothing waits.")


def rates_view(covered_s: float, rates: Sequence[ModelRate], points: Sequence[Point]) -> str:
    """Return tokens per second and time to first token of each model, and their last minutes."""
    rows = [
        (
            each.model, f"{each.generated_per_s:.1f}", f"{each.prompt_per_s:.1f}",
            str(each.finished), str(each.first_tokens), seconds(each.ttft_p50_s),
            seconds(each.ttft_p95_s),
        )
        for each in rates
    ]  # fmt: skip
    titles = (
        "model", "generated tokens/s", "prompt tokens/s", "answers ended", "answers begun",
        "TTFT p50", "TTFT p95",
    )  # fmt: skip
    caption = f"Rates over the last {covered_s:.0f} s" if covered_s else "Rates"
    empty = "No model has answered yet." if covered_s else "Known after the second reading."
    return html_table(caption, titles, rows, empty) + history_chart(points)


def no_rates(why: str) -> str:
    """Return what stands in their place."""
    return html_table("Rates", (), (), f"{why} A key with the scope `metrics` may read them, too.")


def cards_table(hosts: Sequence[Row], gateway: Row) -> str:
    """Return memory in use of hosts, of their cards, and of the gateway."""
    rows: list[tuple[str, ...]] = []
    for host in hosts:
        rows.append((host["host"], "memory", *_used(host, "total_memory_bytes")))
        rows += [
            (host["host"], f"card {card['index']}: {card['name']}", *_used(card, "total_bytes"))
            for card in host["cards"]
        ]
    limit_bytes = gateway["memory_limit_bytes"]
    if limit_bytes:
        used_bytes = gateway["memory_bytes"]
        rows.append(("this gateway", "memory", _gib(used_bytes), _gib(limit_bytes),
                     f"{used_bytes / limit_bytes:.0%}"))  # fmt: skip
    titles = ("host", "what", "in use", "of", "share")
    return html_table("Cards and memory", titles, rows, "No host has told of itself.")


def errors_table(errors: Sequence[Row], now: datetime) -> str:
    """Return the gateway's errors by cause, the latest first."""
    rows = [
        (
            each["code"], each["model"] or "-", str(each["status"]), str(each["count"]),
            _ago(now, each["last"]),
        )
        for each in errors
    ]  # fmt: skip
    titles = ("cause", "model", "status", "count", "last")
    return html_table("Errors since the gateway's start", titles, rows, "There was none.")


def summary(status: Row) -> str:
    """Return the whole in a line."""
    gateway, workers = status["gateway"], status["workers"]
    ready = sum(each["state"] == "ready" for each in workers)
    waiting = sum(each["waiting"] for each in status["queues"])
    draining = " It is draining: it takes nothing new." if gateway["is_draining"] else ""
    return (
        f"{ready} of {len(workers)} workers ready; {waiting} requests wait; gateway "
        f"`{gateway['id']}` has {gateway['open']} answers under way.{draining}"
    )


def seconds(value: float | None) -> str:
    """Return a duration for people."""
    if value is None:
        return "-"
    if math.isinf(value):
        return "above all buckets"
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _used(of: Row, total: str) -> tuple[str, str, str]:
    total_bytes = of[total]
    used_bytes = total_bytes - of[total.replace("total", "free")]
    share = f"{used_bytes / total_bytes:.0%}" if total_bytes else "-"
    return _gib(used_bytes), _gib(total_bytes), share


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / _GIB:.1f} GiB"


def _figure(value: float | None, form: str) -> str:
    return _UNKNOWN if value is None else form.format(value)


def _ago(now: datetime, last: float) -> str:
    moment = datetime.fromtimestamp(last, UTC)
    passed_s = max(0.0, (now - moment).total_seconds())
    if passed_s < 90:
        return f"{passed_s:.0f} s ago"
    return f"{passed_s / 60:.0f} min ago" if passed_s < 5400 else f"{moment:%Y-%m-%d %H:%M} UTC"
