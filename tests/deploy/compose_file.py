"""docker-compose.yml and the Dockerfiles as the tests read them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.support.program import ROOT

VARIABLE = re.compile(r"\$\{([A-Z_]+)(:?-)?([^}]*)\}")
DOCKERFILES = sorted((ROOT / "deploy" / "docker").glob("*.Dockerfile"))


def text() -> str:
    return (ROOT / "docker-compose.yml").read_text(encoding="utf-8")


def composition() -> dict[str, Any]:
    """The file, with every variable at its default."""
    return yaml.safe_load(VARIABLE.sub(lambda found: found.group(3), text()))


def services() -> dict[str, dict[str, Any]]:
    return composition()["services"]


def defaults() -> dict[str, set[str]]:
    """Each variable's defaults, wherever it stands."""
    found: dict[str, set[str]] = {}
    for name, _, default in VARIABLE.findall(text()):
        found.setdefault(name, set()).add(default)
    return found


@dataclass(frozen=True, slots=True)
class Instruction:
    """One of a Dockerfile's; `stage` counts from 0."""

    stage: int
    name: str
    words: str


def instructions(file: Path) -> list[Instruction]:
    """Return what a Dockerfile says, line continuations joined; `stage` is -1 before any FROM."""
    joined = file.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in joined.splitlines()]
    found: list[Instruction] = []
    stage = -1
    for line in lines:
        if not line or line.startswith("#"):
            continue
        name, _, words = line.partition(" ")
        stage += name == "FROM"
        found.append(Instruction(stage, name, words.strip()))
    return found


def last_stage(file: Path) -> list[Instruction]:
    every = instructions(file)
    return [each for each in every if each.stage == every[-1].stage]
