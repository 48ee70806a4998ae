"""Question files for the evaluation tab: found, checked, and cut to so many questions.

Their lines are those of `services.protocol.evaluation_lines`, as `galen evaluate
--write-questions` writes them; the drawn scans that ship with Galen become such lines here. What
does *not* live here: uploading them (`evaluation_tab.py`).
"""

import base64
import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import BinaryIO

import msgspec

from services.protocol.batch_lines import raw_lines
from services.protocol.evaluation_lines import (
    EvaluationImage,
    EvaluationItem,
    check_evaluation_lines,
    read_evaluation_line,
)

DRAWN_SCANS = "drawn-scans"
SUFFIX = ".jsonl"
_DEMO = resources.files("modeling") / "demo_model"
_CLOSED = frozenset({"yes", "no"})


@dataclass(frozen=True, slots=True)
class Questions:
    """What is uploaded.

    Args:
        num: of its questions.
        num_in_file: of the whole file's.
    """

    content: bytes
    num: int
    num_in_file: int


def benchmark_name(file_name: str) -> str:
    """Return the benchmark of a file: `vqa-rad.test.jsonl` holds `vqa-rad/test`.

    That is what `galen evaluate` calls it, so that its receipts and the tab's are of one benchmark.
    """
    stem = Path(file_name).name.removesuffix(SUFFIX)
    name, dot, split = stem.rpartition(".")
    return f"{name}/{split}" if dot and name and split else stem


def benchmarks_in(folder: Path | None) -> dict[str, Path]:
    """Return the question files of a folder by their benchmarks; none where it cannot be read."""
    if folder is None or not folder.is_dir():
        return {}
    found = sorted(file for file in folder.glob(f"*{SUFFIX}") if file.is_file())
    return {benchmark_name(file.name): file for file in found}


def count_questions(file: BinaryIO) -> int:
    """Return how many questions a file holds; raises BatchInputError, which names the line."""
    return check_evaluation_lines(raw_lines(file))


def cut(file: BinaryIO, most: int | None) -> Questions:
    """Return the first questions of a file, each behind its image.

    Args:
        file: is read twice, from its beginning.
        most: so many questions; None: all of them.

    Raises:
        BatchInputError: a line is none; its message says which.
    """
    num_in_file = count_questions(file)
    file.seek(0)
    num = num_in_file if most is None else min(most, num_in_file)
    return Questions(b"".join(_first_lines(file, num)), num, num_in_file)


def drawn_scans() -> BinaryIO:
    """Return the drawn scans that ship with Galen, and all their questions, as a question file."""
    told = json.loads((_DEMO / "scans.json").read_text(encoding="utf-8"))
    lines: list[EvaluationImage | EvaluationItem] = []
    for scan in told["scans"]:
        name = str(scan["image"])
        content = (_DEMO / name).read_bytes()
        url = f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
        lines.append(EvaluationImage(name, hashlib.sha256(content).hexdigest(), url))
        for number, each in enumerate(scan["questions"], 1):
            is_closed = each["answer"] in _CLOSED
            question_id = f"{Path(name).stem}-{number}"
            lines.append(
                EvaluationItem(question_id, each["question"], each["answer"], is_closed, image=name)
            )
    return io.BytesIO(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def _first_lines(file: BinaryIO, num: int) -> Iterator[bytes]:
    """Give the lines of so many questions; an image comes with its first one."""
    image = b""
    for raw in raw_lines(file):
        if num == 0:
            return
        if isinstance(read_evaluation_line(raw.content, raw.number), EvaluationImage):
            image = raw.content + b"\n"
            continue
        yield image + raw.content + b"\n"
        image = b""
        num -= 1
