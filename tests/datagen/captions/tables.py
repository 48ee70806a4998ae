"""Images, tables and the command for tests."""

import json
from pathlib import Path

import pytest
from PIL import Image

from datagen.captions import command


def write_image(file: Path, shade: int = 90) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 12), (shade, shade, 30)).save(file)
    return file


def scans(tmp_path: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        write_image(tmp_path / "scans" / name, 20 * number)
    return tmp_path / "scans"


def run(*words: str | Path) -> int:
    """Run the command; returns how it ended."""
    with pytest.raises(SystemExit) as end:
        command.main([str(word) for word in words])
    return int(end.value.code or 0)


def make(folder: Path, table: Path, *words: str | Path) -> int:
    out = table.parent / "figures.jsonl"
    return run("--images", folder, "--table", table, "--out", out, *words)


def figures(tmp_path: Path) -> list[dict[str, object]]:
    return _lines(tmp_path / "figures.jsonl")


def left_out(tmp_path: Path) -> list[tuple[object, object]]:
    lines = _lines(tmp_path / "figures.jsonl.problems.jsonl")
    return [(line["row"], line["kind"]) for line in lines]


def _lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]
