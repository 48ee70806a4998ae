import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("package", "words"),
    [("datagen", ["data", "inspect"]), ("evaluation", ["evaluate"]), ("pydicom", ["data"])],
)
def test_a_folder_where_the_user_stands_is_not_run(
    tmp_path: Path, package: str, words: list[str]
) -> None:
    shadow = tmp_path / package
    shadow.mkdir()
    (shadow / "__init__.py").write_text("raise SystemExit('not ours')")

    galen = Path(sys.executable).with_name("galen")
    done = subprocess.run(
        [galen, *words, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr) == (0, "")
