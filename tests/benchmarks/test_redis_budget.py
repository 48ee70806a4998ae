"""docs/scaling.md counts with the figures that it shows, and plans with the dearer one."""

import re

import pytest

from benchmarks.ours import REPOSITORY
from benchmarks.redis_budget import (
    CELL_GATEWAYS,
    CELL_WORKERS,
    CORE_SHARE,
    Figures,
    core_share,
    figures_of,
    text_of,
    writes_a_step,
)

PAGE = (REPOSITORY / "docs" / "scaling.md").read_text(encoding="utf-8")


def test_the_page_counts_with_its_own_measurement() -> None:
    assert text_of(figures_of(PAGE)) in PAGE


def test_figures_are_read_from_the_measured_section() -> None:
    page = (
        "(4.8 a step), and worked 149 us a step\n"
        "| a request: queued, claimed, ended | 207.8 | 2 | 8 |\n"
        "| an engine step of 16 sequences: written, read | 40.0 | 1 | 8 |\n"
        "| an engine step of 64 sequences: written, read | 60.0 | 3 | 3 |\n"
    )

    assert figures_of(page) == Figures(50.0, 149.0, 207.8)


def test_a_step_is_written_to_each_gateway_whose_requests_are_in_it() -> None:
    assert writes_a_step(1) == 1
    assert writes_a_step(3) == pytest.approx(3, abs=0.01)
    assert writes_a_step(1000) == pytest.approx(31.5, abs=0.1)
    # one gateway: 34 steps of 0.1 ms, 9.7 requests of 0.2 ms
    assert core_share(1, 100.0, 200.0) == pytest.approx((3.4 + 1.94) / 1e3)


def test_a_cell_fits_by_the_dearer_figure_and_the_page_plans_with_it() -> None:
    figures = figures_of(PAGE)
    dearer = max(figures.step_alone, figures.step_in_platform)

    assert CELL_WORKERS * core_share(CELL_GATEWAYS, dearer, figures.request) <= CORE_SHARE
    planned = set(re.findall(r"cells?(?: is planned as| of) (\d+) workers", PAGE))
    assert planned == {str(CELL_WORKERS)}
    rows = re.findall(r"^\| ([\d,]+) \| (\d+) \| (\d+) \| (\d+) \| ", PAGE, re.MULTILINE)
    for workers, cells, redis, _ in rows:
        assert int(cells) == int(redis) == -(-int(workers.replace(",", "")) // CELL_WORKERS)
    assert len(rows) == 3
