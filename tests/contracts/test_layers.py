"""Who may import whom: import-linter's contracts hold, and they would notice if one did not."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.contracts.source_tree import PRODUCT, ROOT


def run_lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache", "--no-logo"]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def test_layers_hold() -> None:
    done = run_lint_imports(ROOT)

    assert done.returncode == 0, done.stdout + done.stderr


def test_an_import_of_torch_in_the_wire_is_noticed(tmp_path: Path) -> None:
    for package in PRODUCT:
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "services/protocol/keys.py").open("a", encoding="utf-8") as keys:
        keys.write("\nimport torch\n")

    done = run_lint_imports(tmp_path)

    assert done.returncode == 1
    assert "services.protocol.keys -> torch" in done.stdout
