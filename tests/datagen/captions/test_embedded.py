"""Images inside a Parquet file, as Hugging Face's data sets keep them, become files and figures."""

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as arrow  # pyright: ignore[reportMissingTypeStubs] - it has none
import pytest
from PIL import Image
from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs] - it has none

from datagen.figures import figure_of
from tests.datagen.captions.tables import figures, left_out, make, run, scans

STRUCT = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])


def raw(shade: int, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (16, 12), (shade, shade, 30)).save(content, kind)
    return content.getvalue()


def parquet_of(file: Path, images: Sequence[object], kind: object = STRUCT) -> Path:
    captions = [f"Scan {number}." for number in range(len(images))]
    table = arrow.table({"image": arrow.array(images, kind), "caption": captions})
    parquet.write_table(table, file, row_group_size=7)
    return file


def test_each_image_is_written_as_it_was_under_a_name_of_its_own(tmp_path: Path) -> None:
    kinds = ("PNG", "JPEG", "TIFF")
    contents = [raw(number, kinds[number % 3]) for number in range(40)]
    table = parquet_of(
        tmp_path / "t.parquet", [{"bytes": each, "path": "image.png"} for each in contents]
    )
    flat = tmp_path / "flat"
    words = ("--table", table, "--out", tmp_path / "figures.jsonl", "--out-images", flat)
    assert run(*words) == 0
    first = figures(tmp_path)
    assert run(*words, "--force") == 0  # the second time all is there
    assert figures(tmp_path) == first
    names = [figure_of(figure).image for figure in first]
    assert [(flat / name).read_bytes() for name in names] == contents
    assert {path.name for path in flat.iterdir()} == set(names)
    assert [Path(name).suffix for name in names[:3]] == [".png", ".jpg", ".tif"]
    assert all(name.startswith("image-") for name in names)


@pytest.mark.parametrize("kind", [arrow.binary(), arrow.large_binary()])
def test_bare_bytes_are_images_too(tmp_path: Path, kind: object) -> None:
    table = parquet_of(tmp_path / "t.parquet", [raw(1), raw(2), raw(1)], kind)
    words = ("--table", table, "--out", tmp_path / "figures.jsonl", "--out-images", tmp_path / "f")
    assert run(*words) == 0
    found = [(figure["pair_id"], figure["image"]) for figure in figures(tmp_path)]
    assert len({pair_id for pair_id, _ in found}) == 3
    assert found[0][1] == found[2][1] != found[1][1]


def test_a_path_without_bytes_is_a_file_of_the_folder(tmp_path: Path) -> None:
    images = [{"bytes": None, "path": "a.png"}, {"bytes": raw(9), "path": "../../etc/x y.png"}]
    table = parquet_of(tmp_path / "t.parquet", images)
    flat = tmp_path / "flat"
    assert make(scans(tmp_path, "a.png"), table, "--out-images", flat) == 0
    first, second = (str(figure["image"]) for figure in figures(tmp_path))
    assert first == "a.png"
    assert second.startswith("x_y-")
    assert sorted(path.name for path in flat.iterdir()) == sorted([first, second])


def test_what_is_no_image_is_listed_with_its_reason_and_leaves_nothing(tmp_path: Path) -> None:
    images = [
        {"bytes": raw(1), "path": None},
        {"bytes": raw(2)[:50], "path": "torn.png"},
        {"bytes": b"", "path": "empty.png"},
        {"bytes": None, "path": None},
        None,
        {"bytes": None, "path": "a.png"},
    ]
    table = parquet_of(tmp_path / "t.parquet", images)
    flat = tmp_path / "flat"
    out = tmp_path / "figures.jsonl"
    assert run("--table", table, "--out", out, "--out-images", flat) == 3
    assert left_out(tmp_path) == [
        (2, "image cannot be read"),
        (3, "image file is empty or too large"),
        (4, "no image named"),
        (5, "no image named"),
        (6, "image is a file: give --images"),
    ]
    assert [path.name for path in flat.iterdir()] == [figures(tmp_path)[0]["image"]]


def test_a_file_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    table = parquet_of(tmp_path / "t.parquet", [{"bytes": raw(1), "path": "a.png"}])
    words = ("--table", table, "--out", tmp_path / "figures.jsonl", "--out-images", tmp_path / "f")
    assert run(*words) == 0
    (written,) = (tmp_path / "f").iterdir()
    written.write_bytes(b"mine")
    assert run(*words, "--force") == 1
    assert left_out(tmp_path) == [(1, "another file has its name in --out-images")]
    assert written.read_bytes() == b"mine"


def test_without_a_folder_for_them_it_is_said_what_to_give(tmp_path: Path, capsys) -> None:
    table = parquet_of(tmp_path / "t.parquet", [{"bytes": raw(1), "path": "a.png"}])
    assert run("--table", table, "--out", tmp_path / "figures.jsonl") == 1
    assert "image inside the table: give --out-images" in capsys.readouterr().err
