"""The folder of one run: who was asked what, the answers, the receipt and the report.

`run.json` holds what decides the answers; a folder is gone on with only by the same. What does
*not* live here: asking (`answering.py`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from evaluation.errors import EvaluationError, OtherRunError
from modeling.durable_files import write_json
from services.endpoint_client.identity import differences

RUN_FILE = "run.json"
ANSWERS_FILE = "answers.jsonl"
REPLIES_FILE = "replies.jsonl"
JOB_FILE = "evaluation.json"
RECEIPT_FILE = "receipt.json"
REPORT_FILE = "report.html"
EVALUATION, JUDGEMENT, CHAT = "evaluation", "judgement", "chat"
"""What a run is: the `kind` in its file, and in its receipt."""
_OURS = {
    EVALUATION: (ANSWERS_FILE, JOB_FILE, RECEIPT_FILE, REPORT_FILE),
    JUDGEMENT: (REPLIES_FILE, RECEIPT_FILE, REPORT_FILE),
    CHAT: (ANSWERS_FILE, REPLIES_FILE, RECEIPT_FILE, REPORT_FILE),
}


def open_run(folder: Path, identity: Mapping[str, Any], *, is_new: bool) -> bool:
    """Make a run's folder, or find it; returns whether it was there.

    Args:
        identity: JSON; its `kind`, and all that decides the answers.
        is_new: what the folder holds of a run of this kind is removed.

    Raises:
        OtherRunError: it holds a run of other questions, of another model or other decoding.
        EvaluationError: it holds something else.
    """
    file = folder / RUN_FILE
    was_run = is_new and file.is_file()
    if was_run:
        _remove_run(folder, identity["kind"])
    if not file.is_file():
        if not was_run and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise EvaluationError(f"{folder} is there and is no evaluation; take another --out")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, identity)
        return False
    if changed := differences(_read(file), identity):
        raise OtherRunError(
            f"{folder} holds another run: {'; '.join(changed)}; take another --out, or begin "
            "anew with --new-run, which removes its answers"
        )
    return True


def _remove_run(folder: Path, kind: str) -> None:
    """Remove the files that a run of a kind wrote, and no other."""
    if _read(folder / RUN_FILE).get("kind") != kind:
        raise EvaluationError(f"{folder} holds something else than this; take another --out")
    # The name of what makes it a run goes last: a kill in between leaves a run.
    for name in (*_OURS[kind], RUN_FILE):
        (folder / name).unlink(missing_ok=True)


def _read(file: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise EvaluationError(f"{file} is damaged; take another --out")
    return cast("Mapping[str, Any]", found)
