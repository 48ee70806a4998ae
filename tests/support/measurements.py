"""What the fault tests measured; `tests/conftest.py` prints it at the end of a run."""

from dataclasses import dataclass, field

import pytest

from tests.support.history import Recovery


@dataclass(slots=True)
class Measurements:
    """What the rows of the fault matrix measured; printed at the end."""

    lines: list[str] = field(default_factory=list)

    def note(self, row: str, **figures: object) -> None:
        """Add figures of one run."""
        shown = (f"{k}={v:.2f}" if isinstance(v, float) else f"{k}={v}" for k, v in figures.items())
        self.lines.append(f"{row:32} {' '.join(shown)}")

    def note_recovery(self, row: str, found: Recovery, **figures: object) -> None:
        """Add how the requests that were open at the fault went on."""
        self.note(
            row,
            open=found.num_open,
            next_token_s=found.next_token_s,
            terminal_s=found.terminal_s,
            errors=found.num_errors,
            **figures,
        )


MEASUREMENTS = pytest.StashKey[Measurements]()
