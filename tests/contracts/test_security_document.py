"""docs/security.md names tests that are there, and claims nothing without one."""

import re

import pytest

from tests.contracts.named_tests import is_there
from tests.contracts.source_tree import ROOT

STATES = {"held", "not held"}
STRIDE = {
    "Spoofing", "Tampering", "Repudiation", "Information disclosure", "Denial of service",
    "Elevation of privilege",
}  # fmt: skip
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")


def rows(page: str, heads: tuple[str, ...]) -> list[list[str]]:
    """Return the cells of all tables with three columns whose first head is one of `heads`."""
    found: list[list[str]] = []
    is_inside = False
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line[:1] == "|" else []
        if len(cells) != 3:
            is_inside = False
        elif is_inside and cells[0].strip("-"):
            found.append(cells)
        is_inside = bool(cells) and (is_inside or cells[0] in heads)
    return found


LINES = rows(PAGE, ("line",))


@pytest.mark.parametrize("cells", LINES, ids=lambda cells: cells[0])
def test_a_line_is_held_by_tests_that_are_there_or_says_what_it_waits_for(cells: list[str]) -> None:
    _, state, by = cells
    tests = re.findall(r"`([\w/]+\.py::\w+)`", by)

    assert state in STATES
    assert bool(tests) == (state == "held")
    assert [test for test in tests if not is_there(test)] == []
    assert state != "not held" or by


def test_there_are_lines_of_every_part() -> None:
    parts = re.findall(r"^### (.+)$", PAGE, re.MULTILINE)
    assert len(parts) == 7
    assert all(f"### {part}\n\n| line | state | by |" in PAGE for part in parts)
    assert len(LINES) > 40


def test_every_kind_of_threat_has_an_answer() -> None:
    threats = rows(PAGE, ("STRIDE",))
    assert {kind for kind, _, _ in threats} == STRIDE
    assert all(threat and answer for _, threat, answer in threats)


def test_reports_are_private() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for words in ("Report in private", "do not open a public issue", "within 7 days"):
        assert words in text
    assert "docs/security.md" in text
