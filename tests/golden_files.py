"""Golden files: text under `tests/golden`, compared by tests and written anew by `make golden`.

Use the fixture `golden`: `golden.check("openapi.json", text)`. A person reviews every difference.
"""

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "golden"
OPTION = "--update-golden"


class GoldenFiles:
    """Compares texts with files, or writes the files where the run was asked to."""

    def __init__(self, *, update: bool) -> None:
        self._update = update

    def check(self, name: str, text: str) -> None:
        """Assert that `text` is what `tests/golden/<name>` holds."""
        __tracebackhide__ = True
        file = FOLDER / name
        if self._update:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        if not file.exists():
            pytest.fail(f"there is no tests/golden/{name} yet; run `make golden` and review it")
        expected = file.read_text(encoding="utf-8")
        assert text == expected, f"tests/golden/{name} differs; if that is meant: make golden"
