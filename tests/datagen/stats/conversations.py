"""Files of conversations for tests, and the command."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

from datagen.figures import DOMAINS
from datagen.stats import command


def item(number: int, *texts: str, domain: str | None = None) -> dict[str, object]:
    """An item whose texts are questions and answers in turn."""
    turns = [
        {"from": "gpt" if index % 2 else "human", "value": text} for index, text in enumerate(texts)
    ]
    record: dict[str, object] = {"id": f"i{number}", "image": f"i{number}.png"}
    if domain is not None:
        record["domain"] = {name: name == domain for name in DOMAINS}
    return {**record, "conversations": turns}


def write_items(file: Path, items: Sequence[Mapping[str, object]]) -> Path:
    file.write_text(json.dumps(list(items)), "utf-8")
    return file


def write_images(folder: Path, number: int) -> Path:
    folder.mkdir()
    for index in range(number):
        Image.new("RGB", (32, 24), (200, 8 * index, 40)).save(folder / f"i{index}.png")
    return folder


def run(*words: str | Path) -> int:
    """Run the command; returns how it ended."""
    with pytest.raises(SystemExit) as end:
        command.main([str(word) for word in words])
    return int(end.value.code or 0)
