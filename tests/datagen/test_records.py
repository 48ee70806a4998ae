"""Records come out of every shape of file, and what is broken is told and costs itself alone."""

import json
from pathlib import Path

import pytest

from datagen.errors import DataError
from datagen.records import Found, Problem, read_records, shape_of


def _read(path: Path, content: bytes | str) -> tuple[list[Found], list[Problem]]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    problems: list[Problem] = []
    return list(read_records(path, problems.append)), problems


def test_lines_with_a_byte_order_mark_and_a_torn_end(tmp_path: Path):
    found, problems = _read(tmp_path / "a", b'\xef\xbb\xbf{"a": 1}\n\n{"a": 2}\nnot\n[1]\n{"a": 3')

    assert [(each.number, each.record) for each in found] == [(1, {"a": 1}), (3, {"a": 2})]
    assert problems == [
        Problem(4, "no JSON"), Problem(5, "no object"), Problem(6, "torn last line")
    ]  # fmt: skip


def test_a_last_line_without_its_end_counts_when_it_is_whole(tmp_path: Path):
    found, problems = _read(tmp_path / "a", '{"a": 1}\n{"a": 2}')

    assert len(found) == 2
    assert not problems


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list(tmp_path: Path, indent: int | None):
    content = [{"a": {"b": [1.5]}}, 7, {"a": "é"}]
    found, problems = _read(tmp_path / "a", json.dumps(content, indent=indent))

    assert [each.record for each in found] == [{"a": {"b": [1.5]}}, {"a": "é"}]
    assert problems == [Problem(2, "no object")]


def test_a_broken_list_gives_what_is_before(tmp_path: Path):
    found, problems = _read(tmp_path / "a", '[{"a": 1}, {"a": 2}, {"a": ')

    assert [each.record["a"] for each in found] == [1, 2]
    assert problems == [Problem(3, "broken list")]


@pytest.mark.parametrize("indent", [None, 2])
def test_lists_by_name(tmp_path: Path, indent: int | None):
    content = {"mri": [{"id": 1, "x": {"y": [{}]}}, {"id": 2}], "gross": [], "cxr": [{"id": 3}]}
    found, problems = _read(tmp_path / "a", json.dumps(content, indent=indent))

    assert [(each.group, each.record["id"]) for each in found] == [
        ("mri", 1), ("mri", 2), ("cxr", 3)
    ]  # fmt: skip
    assert found[0].record == content["mri"][0]
    assert not problems


def test_one_line_with_a_conversation_is_no_object_of_lists(tmp_path: Path):
    path = tmp_path / "a"
    path.write_text('{"conversations": [{"from": "human", "value": "?"}]}\n')

    assert shape_of(path) == "lines"


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "empty"), (b"<html>", "no JSON"), (b"version https://git-lfs.github.com", "LFS")],
)
def test_what_cannot_be_read_at_all_is_an_error(tmp_path: Path, content: bytes, word: str):
    with pytest.raises(DataError, match=word):
        _read(tmp_path / "a", content)
