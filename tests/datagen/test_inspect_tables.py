"""Tables of images with captions are recognised; a stray record changes no count of a file."""

import json
from pathlib import Path

import pyarrow as arrow  # pyright: ignore[reportMissingTypeStubs] - it has none
import pytest
from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs] - it has none
from typer.testing import CliRunner

from datagen.inspect_command import app
from datagen.inspecting import inspect
from tests.datagen.test_inspect import ANSWER, ITEM, VQA, written

ROWS = [
    {"file_name": "a.png", "Caption": "A liver.", "modality": "CT;MRI"},
    {"file_name": "sub/b.png", "Caption": "A lung.", "modality": "CXR"},
]


def write_table(file: Path) -> Path:
    if file.suffix == ".parquet":
        parquet.write_table(arrow.Table.from_pylist(ROWS), file)
    elif file.suffix in {".csv", ".tsv"}:
        lines = [list(ROWS[0]), *(list(row.values()) for row in ROWS)]
        by = "\t" if file.suffix == ".tsv" else ","
        file.write_text("".join(f"{by.join(line)}\n" for line in lines), "utf-8")
    else:
        written(file, ROWS, lines=file.suffix == ".jsonl")
    return file


@pytest.mark.parametrize(
    ("suffix", "shape"),
    [
        (".csv", "CSV"),
        (".tsv", "TSV"),
        (".parquet", "Parquet"),
        (".jsonl", "lines"),
        (".json", "list"),
    ],
)
def test_a_table_of_any_kind_is_recognised(tmp_path: Path, suffix: str, shape: str):
    contents = inspect(write_table(tmp_path / f"t{suffix}"))

    assert (contents.shape, contents.schema, contents.num_records) == (shape, "image table", 2)
    assert contents.counted.domains == {"mri": 1, "ct_scan": 1, "chest_xray": 1}
    assert not contents.problems


def test_what_is_wrong_with_rows_is_told_with_their_lines(tmp_path: Path):
    rows = ["id,image,caption", "1,a.png,", "1,,x", "../z,a.png,x", "4,../a.png,x", "5,a.png"]
    (tmp_path / "t.csv").write_text("\n".join([*rows, ""]), "utf-8")

    assert inspect(tmp_path / "t.csv").first == {
        "no caption": [2],
        "no image named": [3],
        "an id for the second time": [3],
        "id is no name of a file": [4],
        "image leaves its folder": [5],
        "2 cells where 3 columns have names": [6],
    }


def test_images_inside_a_table_are_no_problem(tmp_path: Path):
    rows = [{"image": {"bytes": b"x", "path": None}, "text": "A scan."}]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "t.parquet")
    contents = inspect(tmp_path / "t.parquet")

    assert contents.schema == "image table"
    assert not contents.problems


def test_the_command_names_the_table_and_reads_other_encodings(tmp_path: Path):
    (tmp_path / "t.csv").write_bytes("image,caption\na.png,na\u00efve\n".encode("cp1252"))
    runner = CliRunner()
    told = runner.invoke(app, [str(tmp_path / "t.csv"), "--encoding", "cp1252"])

    assert told.exit_code == 0
    assert "image table, CSV" in told.stdout
    assert runner.invoke(app, [str(tmp_path / "t.csv")]).exit_code == 1


@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_stray_record_is_one_problem_and_changes_no_count(tmp_path: Path, place: int):
    records = [{**VQA, "type": "x", "domain": {"mri": True}} for _ in range(4)]
    stray = {**ITEM, "model_id": "m"}
    records.insert(place, stray)
    contents = inspect(written(tmp_path / "file", records))

    assert contents.schema == "VQA items"
    assert contents.problems == {"another schema: training items": 1}
    assert contents.first == {"another schema: training items": [place + 1]}
    assert contents.counted.rounds == {1: 4}
    assert contents.counted.domains == {"mri": 4}
    assert contents.counted.values == {"answer_type": {"OPEN": 4}, "type": {"x": 4}}


def test_strays_are_listed_up_to_five_of_each_kind(tmp_path: Path):
    answers = [{**ANSWER, "question_id": number} for number in range(7)]
    items = [{**ITEM, "id": number} for number in range(8)]
    told = CliRunner().invoke(
        app, ["--json", str(written(tmp_path / "file", [*answers, *items], lines=True))]
    )

    assert json.loads(told.stdout)["schema"] == "training items"
    assert json.loads(told.stdout)["problems"] == {
        "another schema: answers": {"count": 7, "first": [1, 2, 3, 4, 5]}
    }
