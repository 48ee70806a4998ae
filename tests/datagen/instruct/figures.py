"""Files of captions for tests, and a command that asks a stub about them."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datagen.figures import DOMAINS
from tests.support.ready_python import ready_python

if TYPE_CHECKING:
    import subprocess

_MODULE = "datagen.instruct.command"
CONVERSATION = "User: What is shown?\n\nAssistant: A scan.\n\nUser: And here?\n\nAssistant: A mass."


def record(number: int, *domains: str, **changes: Any) -> dict[str, Any]:
    return {
        "pair_id": f"{number:05d}_fig",
        "pmid": str(number),
        "fig_id": "fig",
        "fig_label": f"Figure {number}",
        "fig_caption": f"Scan number {number}, with a mass.",
        "in_text_mention": [{"tokens": "A mass was seen.", "entities": []}] if number % 2 else None,
        "domain": {name: name in (domains or ("mri",)) for name in DOMAINS},
        **changes,
    }


def write(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", _MODULE, *map(str, words)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OPENAI_API_KEY": "", **more}  # noqa: TID251 - a child's is made here


def instruct(
    *words: object, timeout: float = 60, **more: str
) -> "subprocess.CompletedProcess[str]":
    return ready_python().run(_MODULE, [str(word) for word in words], environment(**more), timeout)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
