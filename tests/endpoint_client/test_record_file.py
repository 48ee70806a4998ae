"""A file of records survives a kill at any byte, and a full disk."""

import json
import os
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.endpoint_client.record_file import RecordFile, RecordFileError

RECORDS = [{"id": str(number), "text": f"Leber {number} ü\n"} for number in range(4)]


def write(path: Path, records: list[dict[str, str]] = RECORDS) -> None:
    with RecordFile(path, "id") as file:
        for record in records:
            file.add(record)


@given(cut=st.integers(0, 400))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_cut_at_any_byte_it_holds_whole_records_and_goes_on(tmp_path: Path, cut: int):
    path = tmp_path / "records.jsonl"
    path.unlink(missing_ok=True)
    write(path)
    whole = path.read_bytes()
    os.truncate(path, min(cut, len(whole)))

    with RecordFile(path, "id") as file:
        kept = list(file.records)
        assert kept == [record["id"] for record in RECORDS][: len(kept)]
    write(path)
    assert path.read_bytes() == whole


def test_a_record_is_kept_once(tmp_path: Path):
    path = tmp_path / "records.jsonl"
    write(path, [*RECORDS, *RECORDS])
    assert len(path.read_text("utf-8").splitlines()) == len(RECORDS)


@pytest.mark.parametrize(
    "middle", [b"}{\n", b"\0\0\n", b"[1]\n", b'{"text": "no id"}\n', b"\xff\n"]
)
def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path, middle: bytes):
    path = tmp_path / "records.jsonl"
    write(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], middle, *lines[1:]]))
    with pytest.raises(RecordFileError, match="line 2 is no record"), RecordFile(path, "id"):
        pass
    assert path.read_bytes().count(b"\n") == len(RECORDS) + 1  # nothing was thrown away


def test_a_second_writer_is_refused(tmp_path: Path):
    path = tmp_path / "records.jsonl"
    with RecordFile(path, "id") as file:
        file.add(RECORDS[0])
        with pytest.raises(RecordFileError, match="another process"), RecordFile(path, "id"):
            pass
        file.add(RECORDS[1])
    assert len(path.read_bytes().splitlines()) == 2


def test_a_full_disk_leaves_no_half_line(tmp_path: Path):
    path = tmp_path / "records.jsonl"
    write(path)
    size = path.stat().st_size
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RecordFile(path, "id") as file:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
        try:
            with pytest.raises(OSError, match="large"):
                file.add({"id": "new", "text": "x" * 100})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)
        assert path.stat().st_size == size
        file.add({"id": "new", "text": "y"})
    assert json.loads(path.read_text("utf-8").splitlines()[-1])["text"] == "y"
