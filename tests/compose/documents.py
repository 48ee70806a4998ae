"""Commands of the documents, run as they stand against this project instead of a reader's.

`docker compose` means this project there, and their addresses are where it is published.
What does *not* live here: which blocks there are, and their marks (`tests/docs/blocks.py`).
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.compose.composition import PROJECT_WORDS, Composition, compose_command
from tests.docs.blocks import PAGES, Block, blocks_of
from tests.support.program import ROOT

_DOCKER = """#!/usr/bin/env bash
if [[ ${{1:-}} == compose ]]; then
  shift
  cd {root} && exec {compose} "$@"
fi
exec {docker} "$@"
"""
_LINKED = ("deploy", "modeling")
_LIMIT_S = 1800


def documented(page: str, start: str) -> Block:
    """Return the one block of a page that is for Compose and begins so."""
    [path] = [each for each in PAGES if each.name == page]
    [block] = [b for b in blocks_of(path) if b.is_of_compose and b.text.startswith(start)]
    return block


def run_documented(
    composition: Composition,
    page: str,
    start: str,
    folder: Path,
    variables: Mapping[str, str] | None = None,
) -> str:
    """Run a block as it stands; returns what it printed. A command of it that fails ends it.

    `tests/docs/test_commands.py` reads page and start from calls of this: they are plain strings.

    Args:
        page: README.md, or the name of a file in `docs`.
        start: how the block begins.
        folder: where the reader stands; what the commands write stays in it.
        variables: of the reader's shell.
    """
    text = documented(page, start).text
    for said, here in _addresses(composition).items():
        text = text.replace(said, here)
    environment = composition.all_variables() | dict(variables or {})
    environment["PATH"] = f"{_programs(folder)}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=environment,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LIMIT_S, check=False,
    )  # fmt: skip
    said = f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    assert done.returncode == 0, f"{page}, {start}: ended with {done.returncode}\n{said}"
    return done.stdout


def _addresses(composition: Composition) -> Mapping[str, str]:
    published = composition.environment
    tls_port = published.get("GALEN_TLS_PUBLISH", ":8443").rpartition(":")[2]
    return {
        "127.0.0.1:8000": published["GALEN_GATEWAY_PUBLISH"],
        "localhost:8443": f"localhost:{tls_port}",
    }


def _programs(folder: Path) -> Path:
    """Return a folder for PATH whose `docker` knows this project."""
    programs = folder / ".programs"
    if programs.exists():
        return programs
    programs.mkdir()
    for name in _LINKED:
        (folder / name).symlink_to(ROOT / name)
    found = shutil.which("docker")
    assert found is not None
    program, *words = compose_command()
    compose = shlex.join([shutil.which(program) or program, *words, *PROJECT_WORDS])
    docker = programs / "docker"
    docker.write_text(
        _DOCKER.format(root=shlex.quote(str(ROOT)), compose=compose, docker=shlex.quote(found)),
        encoding="utf-8",
    )
    docker.chmod(0o755)
    return programs
