"""What docs/kubernetes.md and docs/scaling.md say, against the chart and against their formulas."""

import re
from collections.abc import Iterator

import pytest

from benchmarks.queue_simulation import ANSWER_TOKENS, CARDS
from benchmarks.redis_budget import BATCH, REQUESTS_PER_S, STEPS_PER_S
from tests.deploy.chart import ROOT, Manifests


def text_of(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def rows_below(text: str, head: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the table with this first column."""
    lines = text[text.index(f"| {head} |") :].splitlines()[2:]
    for line in lines:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]


def number(cell: str) -> float:
    return float(re.findall(r"[\d.]+", cell.replace(",", ""))[0])


def test_keys_of_the_secret_are_told(rendered: dict[str, Manifests]) -> None:
    told = {
        key
        for cells in rows_below(text_of("kubernetes"), "key")
        for key in re.findall(r"`([a-z.-]+)`", cells[0])
    }
    mounted = {k for pod in rendered["defaults"].pods() for k in pod.secret_files().values()}

    assert told == mounted


def test_redis_is_budgeted_for_the_card_of_the_simulation() -> None:
    # that the page follows from these figures: tests/benchmarks/test_redis_budget.py
    card = CARDS[0]

    assert card.slots == BATCH
    steps_per_s = ANSWER_TOKENS / (card.mean_s - card.prefill_s)
    assert pytest.approx(steps_per_s, rel=0.01) == STEPS_PER_S
    assert pytest.approx(card.slots / card.mean_s, rel=0.01) == REQUESTS_PER_S


def test_costs_follow_from_the_formula() -> None:
    for cells in rows_below(text_of("scaling"), "card"):
        price, per_s, dollars = number(cells[1]), number(cells[3]), number(cells[4])
        assert dollars == pytest.approx(price * 1e6 / (3600 * per_s), abs=0.006)
