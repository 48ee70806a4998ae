"""What docs/kubernetes.md and docs/scaling.md say, against the chart and against their formulas."""

import re
from collections.abc import Iterator

import pytest

from benchmarks.queue_simulation import CARDS
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


def writes_a_step(sequences: int, gateways: int) -> float:
    return gateways * (1 - (1 - 1 / gateways) ** sequences)


def test_keys_of_the_secret_are_told(rendered: dict[str, Manifests]) -> None:
    told = {
        key
        for cells in rows_below(text_of("kubernetes"), "key")
        for key in re.findall(r"`([a-z.-]+)`", cells[0])
    }
    mounted = {k for pod in rendered["defaults"].pods() for k in pod.secret_files().values()}

    assert told == mounted


def test_what_redis_carries_follows_from_the_formula() -> None:
    card = CARDS[0]
    token_s = (card.mean_s - card.prefill_s) / 100
    requests_per_s = card.slots / card.mean_s
    for cells in rows_below(text_of("scaling"), "gateways"):
        gateways, writes, work_ms, workers = (number(cell) for cell in cells)
        computed = writes_a_step(card.slots, int(gateways))
        assert writes == pytest.approx(computed, abs=0.06)
        computed_ms = computed / token_s * 0.05 + requests_per_s * 0.2
        assert work_ms == pytest.approx(computed_ms, rel=0.04)
        assert workers == pytest.approx(600 / computed_ms, rel=0.05)


def test_costs_follow_from_the_formula() -> None:
    for cells in rows_below(text_of("scaling"), "card"):
        price, per_s, dollars = number(cells[1]), number(cells[3]), number(cells[4])
        assert dollars == pytest.approx(price * 1e6 / (3600 * per_s), abs=0.006)
