"""The folder of one run: who was asked what, the answers, the receipt and the report.

`run.json` holds what decides the answers; a folder is gone on with only by the same. What does
*not* live here: asking (`answering.py`).
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from evaluation.errors import EvaluationError, OtherRunError
from modeling.durable_files import write_json

RUN_FILE = "run.json"
ANSWERS_FILE = "answers.jsonl"
REPORT_FILE = "report.html"


def open_run(folder: Path, identity: Mapping[str, Any], *, is_new: bool) -> bool:
    """Make a run's folder, or find it; returns whether it was there.

    Args:
        identity: JSON; all that decides the answers.
        is_new: what the folder holds of a run is removed.

    Raises:
        OtherRunError: it holds a run of other questions, of another model or other decoding.
        EvaluationError: it holds something else.
    """
    file = folder / RUN_FILE
    if is_new:
        _remove_run(folder)
    if not file.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise EvaluationError(f"{folder} is there and is no evaluation; take another --out")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, identity)
        return False
    if changed := _differences(_read(file), identity):
        raise OtherRunError(
            f"{folder} holds another run: {'; '.join(changed)}; take another --out, or begin "
            "anew with --new-run, which removes its answers"
        )
    return True


def _remove_run(folder: Path) -> None:
    if not (folder / RUN_FILE).is_file():
        return
    # The name of what makes it a run goes last: a kill in between leaves a run.
    for path in sorted(folder.iterdir(), key=lambda path: path.name == RUN_FILE):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _read(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise EvaluationError(f"{file} is damaged; begin anew with --new-run")
    return cast("Mapping[str, Any]", found)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} was {_short(before.get(key))}, now {_short(now.get(key))}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
