"""Records in LLaVA-Med's schema, and files of them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

Record = dict[str, Any]

QUESTION, ANSWER = "<image>\nWhich organ is this?", "This is the liver."


def record(*texts: str, image: Any = "scan.png", begins: str = "human") -> Record:
    """A conversation; without texts, one question and its answer."""
    speakers = ("human", "gpt") if begins == "human" else ("gpt", "human")
    turns = [
        {"from": speakers[n % 2], "value": text}
        for n, text in enumerate(texts or (QUESTION, ANSWER))
    ]
    item: Record = {"id": "7", "image": image, "conversations": turns}
    return item if image is not None else {k: v for k, v in item.items() if k != "image"}


def text_only(number: int = 0) -> Record:
    return record(f"Is {number} a number?", "Yes.", image=None)


def write_list(path: Path, records: Sequence[object], indent: int | None = None) -> Path:
    path.write_text(json.dumps(records, indent=indent), encoding="utf-8")
    return path


def write_lines(path: Path, records: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return path


def write_images(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", (20, 10)).save(folder / name)
    return folder
