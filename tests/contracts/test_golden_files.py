"""Golden files: compared by default, written only when a run asks for it."""

from pathlib import Path

import pytest

from tests import golden_files
from tests.golden_files import GoldenFiles


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(golden_files, "FOLDER", tmp_path)
    return tmp_path


def test_golden_file_that_is_missing_fails_and_says_how_to_make_it() -> None:
    with pytest.raises(pytest.fail.Exception, match="make golden"):
        GoldenFiles(update=False).check("a.txt", "text")


def test_golden_file_that_differs_fails_and_stays_as_it_is(folder: Path) -> None:
    (folder / "a.txt").write_text("before")

    with pytest.raises(AssertionError, match="differs"):
        GoldenFiles(update=False).check("a.txt", "after")

    assert (folder / "a.txt").read_text() == "before"


def test_golden_file_is_written_when_asked_for(folder: Path) -> None:
    GoldenFiles(update=True).check("sse/a.txt", "after")

    assert (folder / "sse/a.txt").read_text() == "after"
