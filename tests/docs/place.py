"""Where the commands of a page run: a folder as a reader has it, and a platform that serves.

The pages say `galen`, and port 8000. Here `galen` is this checkout's, and the platform listens on
any free port, so addresses are put in their place. What does *not* live here: which blocks run
(`blocks.py`, `test_commands.py`).
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from services.worker.settings import child_environment
from tests.contracts.source_tree import ROOT
from tests.docs.blocks import Block

# The default address of the pages is another one here.
_GALEN = """#!/usr/bin/env bash
words=("$@")
case "$1" in
  ask) words+=(--url {url}) ;;
esac
exec {python} -P -m services.cli "${{words[@]}}"
"""
_LIMIT_S = 120
_DOCUMENTED = "127.0.0.1:8000"
_LINKED = (
    "modeling",
    "services",
    "training",
    "datagen",
    "evaluation",
    "docs",
    "tests",
    "pyproject.toml",
)


class Place:
    """A folder of one page, with what its commands read.

    Args:
        folder: an empty one.
        url: the platform's API, with `/v1`.
        runtime: the platform's folder for temporary files, where commands find it.
    """

    def __init__(self, folder: Path, url: str, runtime: Path) -> None:
        self.folder = folder
        self._url = url
        self._environment = _environment(folder, url, runtime)
        _write_samples(folder)

    def run(self, block: Block) -> subprocess.CompletedProcess[str]:
        """Run a block as it stands; a command of it that fails ends it."""
        address = self._url.removeprefix("http://").removesuffix("/v1")
        text = block.text.replace(_DOCUMENTED, address)
        if block.language == "python":
            command = [sys.executable, "-c", text]
        else:
            command = ["bash", "-euo", "pipefail", "-c", text]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=dict(self._environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )


def programs_in(folder: Path, url: str) -> Path:
    """Return a folder for PATH: `galen` of this checkout, which asks at `url`, and its Python."""
    programs = folder / ".programs"
    if not programs.exists():
        programs.mkdir()
        galen = programs / "galen"
        galen.write_text(_GALEN.format(url=url, python=sys.executable), "utf-8")
        galen.chmod(0o755)
        for name in ("python3", "python"):
            python = programs / name
            python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n', "utf-8")
            python.chmod(0o755)
    return programs


def _environment(folder: Path, url: str, runtime: Path) -> Mapping[str, str]:
    inherited = child_environment()
    return inherited | {
        "PATH": f"{programs_in(folder, url)}{os.pathsep}{inherited['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(runtime),
        "GALEN_STORE_DIR": str(folder / "galen-data"),
    }


def _write_samples(folder: Path) -> None:
    for name in _LINKED:
        (folder / name).symlink_to(ROOT / name)
    scan = ROOT / "modeling" / "demo_model" / "ct.png"
    shutil.copy(scan, folder / "scan.png")
    (folder / "llava-med").symlink_to(ROOT / "modeling" / "demo_model")
    (folder / "scans").mkdir()
    shutil.copy(scan, folder / "scans" / "ct.png")
    captions = "image,caption\nct.png,A drawn scan that shows an organ of the abdomen.\n"
    (folder / "captions.csv").write_text(captions, "utf-8")
    body = {
        "model": "galen-demo",
        "messages": [{"role": "user", "content": "Which organ is shown?"}],
        "max_tokens": 8,
    }
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (folder / "requests.jsonl").write_text(json.dumps(line) + "\n", "utf-8")
