"""JSON and JSONL of any size, by number."""

import hashlib
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training import records as module
from training.errors import TrainingError
from training.records import RecordFile, Records

ROOT = Path(__file__).parents[2]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
OBJECTS = st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), min_size=1, max_size=6)


def file_of(folder: Path, content: str | bytes, name: str = "data.json") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def all_of(file: RecordFile) -> list[object]:
    return [file.record(number) for number in range(len(file))]


@settings(max_examples=60, deadline=None)
@given(
    objects=OBJECTS,
    indent=st.sampled_from([None, 1]),
    is_ascii=st.booleans(),
    window_bytes=st.sampled_from([1, 3, 7, 64]),
)
def test_a_list_gives_back_its_records_wherever_a_window_ends(
    tmp_path_factory: pytest.TempPathFactory, objects: list[object], indent: int | None,
    is_ascii: bool, window_bytes: int,
):  # fmt: skip
    text = json.dumps(objects, indent=indent, ensure_ascii=is_ascii)
    path = file_of(tmp_path_factory.mktemp("list"), text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WINDOW_BYTES", window_bytes)
        assert all_of(RecordFile(path)) == objects


@settings(max_examples=40, deadline=None)
@given(objects=OBJECTS, window_bytes=st.sampled_from([1, 5, 64]))
def test_lines_give_back_their_records_wherever_a_window_ends(
    tmp_path_factory: pytest.TempPathFactory, objects: list[object], window_bytes: int
):
    objects = [{"conversations": [], **each} for each in objects]  # type: ignore[dict-item]
    text = "\n\n".join(json.dumps(each) for each in objects)
    path = file_of(tmp_path_factory.mktemp("lines"), text, "data.jsonl")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WINDOW_BYTES", window_bytes)
        assert all_of(RecordFile(path)) == objects


def test_a_byte_order_mark_and_white_space_are_passed_over(tmp_path: Path):
    marked = RecordFile(
        file_of(tmp_path, b'\xef\xbb\xbf\r\n [ {"a": 1}\r\n, {"b": "\xc3\xa4"} ] \n')
    )
    assert all_of(marked) == [{"a": 1}, {"b": "\u00e4"}]


def test_blank_lines_do_not_count_as_records_but_as_lines(tmp_path: Path):
    text = '\n{"conversations": [1]}\n\n  \n{"conversations": [2]}\n\n'
    file = RecordFile(file_of(tmp_path, text, "data.jsonl"))

    assert len(file) == 2
    assert file.where(1).endswith("data.jsonl record 1 (line 5)")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        (" \n ", "is empty"),
        ("[]", "holds no records"),
        ('"text"', "neither a JSON list of records nor JSONL"),
        ("version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ('{"ct": [{"a": 1}],\n "mri": []}', "holds one object, no list of records"),
        ('[{"a": 1}, 7]', "data.json record 1 is no object"),
        ('[{"a": 1} {"b": 2}]', "data.json record 0: broken JSON at byte 10 (no , or ] behind it)"),
        ('[{"a": 1}, ]', "data.json record 1: broken JSON at byte 11"),
        ('[{"a": 1}, {"b": 2', "data.json record 1: broken JSON"),
        ('[{"a": 1}, {"b": "text', "data.json record 1: broken JSON"),
        ('[{"a": 1}, {"b" 2}]', "data.json record 1: broken JSON at byte 16"),
        ('[{"a": 1}, {"b": "\\q"}]', "data.json record 1: broken JSON at byte 18"),
        ('[{"a": 1}', "data.json record 0: broken JSON"),
        ('[{"a": 1}] {"b": 2}', "goes on behind the end of its list"),
        ('{"conversations": []}\n{"b": }\n', "data.json record 1 (line 2): broken JSON"),
        ('{"conversations": []}\n\n[1]\n', "data.json record 1 (line 3) is no object"),
        (b'[{"a": 1}, {"b": "\xff"}]', "data.json record 1 is not UTF-8 at byte 18"),
        (b"\xff\xfe[\x00]\x00", "neither a JSON list"),
        ("[" + "{" * 2 + "]", "data.json record 0: broken JSON"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("window_bytes", [2, 1 << 20])
def test_what_is_wrong_is_said_with_file_and_record(
    tmp_path: Path, content: str | bytes, said: str, window_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(module, "_WINDOW_BYTES", window_bytes)

    with pytest.raises(TrainingError) as error:
        RecordFile(file_of(tmp_path, content))

    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mistake_does_not_show_what_is_written_there(tmp_path: Path):
    with pytest.raises(TrainingError) as error:
        RecordFile(file_of(tmp_path, '[{"value": "Patient Canary" "x"}]'))
    assert "Canary" not in str(error.value)


def test_too_deep_a_record_is_broken(tmp_path: Path):
    with pytest.raises(TrainingError, match=r"record 0: broken JSON .*levels"):
        RecordFile(file_of(tmp_path, '[{"a": ' + "[" * 100_000))


def test_a_whole_file_that_is_one_object_is_not_parsed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_WINDOW_BYTES", 64)
    monkeypatch.setattr(module, "_MOST_RECORD_BYTES", 1 << 20)
    with pytest.raises(TrainingError, match="longer than 1 MiB, or not closed"):
        RecordFile(file_of(tmp_path, json.dumps({"ct": ["x" * 100] * 40_000})))


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(TrainingError, match=r"nowhere\.json cannot be read"):
        RecordFile(tmp_path / "nowhere.json")


def test_the_hash_is_that_of_the_file(tmp_path: Path):
    path = file_of(tmp_path, '[{"a": 1}]')
    assert RecordFile(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_several_files_are_one_row(tmp_path: Path):
    first = file_of(tmp_path, '[{"n": 0}, {"n": 1}]', "a.json")
    second = file_of(tmp_path, '{"n": 2, "conversations": []}\n', "b.jsonl")
    both = Records([first, second])

    assert [both.record(n)["n"] for n in range(len(both))] == [0, 1, 2]
    assert both.where(1) == f"{first} record 1"
    assert both.where(2) == f"{second} record 0 (line 1)"
    with pytest.raises(IndexError):
        both.record(3)


def test_the_data_hash_depends_on_content_and_order(tmp_path: Path):
    first, second = (file_of(tmp_path, f'[{{"n": {n}}}]', f"{n}.json") for n in range(2))
    moved = file_of(tmp_path, first.read_bytes(), "moved.json")

    assert Records([first, second]).data_hash == Records([moved, second]).data_hash
    assert Records([first, second]).data_hash != Records([second, first]).data_hash


def send_record(records: Records, connection: object, number: int) -> None:
    connection.send(records.record(number))  # type: ignore[attr-defined]


def test_another_process_reads_the_same_file(tmp_path: Path):
    records = Records([file_of(tmp_path, '[{"n": 0}, {"n": 1}]')])
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_record, args=(records, sender, 1))
    process.start()
    assert receiver.recv() == {"n": 1}
    process.join()


def test_memory_does_not_grow_with_the_file(tmp_path: Path):
    """Indexing 80 MB takes 16 bytes a record, and a window of the file."""
    code = (ROOT / "tests/training/measure_records.py").as_posix()
    result = subprocess.run(
        [sys.executable, code, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["file_bytes"] > 60_000_000
    assert found["peak_anonymous_bytes"] < 40_000_000
