"""DICOM and NIfTI files with captions become PNG for training, and no tag comes with them."""

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow  # pyright: ignore[reportMissingTypeStubs] - it has none
import pytest
from PIL import Image
from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs] - it has none

from datagen.captions.medical import KEPT_AS, choice_of
from datagen.errors import DataError
from modeling.medical_images.reading import read_medical
from modeling.medical_images.recipes import fingerprint
from tests.datagen.captions.tables import figures, left_out, make, run, scans
from tests.modeling.medical_images.canary import canary_file
from tests.modeling.medical_images.dicom_files import ct, dicom
from tests.modeling.medical_images.shipped import shipped

HOUNSFIELD = np.arange(-1000, 1000, 2).reshape(25, 40)


def lay(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def table_of(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    table = tmp_path / "t.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return table


def converted(tmp_path: Path) -> list[dict[str, Any]]:
    text = (tmp_path / "figures.jsonl.converted.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_slice_becomes_the_png_that_serving_would_show(tmp_path: Path, capsys) -> None:
    folder = lay(tmp_path / "in", {"1.2.840.dcm": ct(HOUNSFIELD)})
    table = table_of(tmp_path, [{"image": "1.2.840.dcm", "caption": "CT of a wedge."}])
    words = ("--out-images", tmp_path / "flat", "--window", "lung")
    assert make(folder, table, *words) == 0
    first = figures(tmp_path), converted(tmp_path)
    assert make(folder, table, *words, "--force") == 0
    assert (figures(tmp_path), converted(tmp_path)) == first

    (figure,), (line,) = first
    with Image.open(tmp_path / "flat" / str(figure["image"])) as image:
        expected = read_medical(ct(HOUNSFIELD), choice_of("default", "lung", None))[0]
        assert (image.format, image.mode, image.info) == ("PNG", "L", {})
        assert image.tobytes() == expected.tobytes()
    assert figure["preprocess"] == {
        "recipe": "default",
        "window": "lung",
        "frame": 1,
        "fingerprint": fingerprint(choice_of("default", "lung", None), KEPT_AS),
    }
    assert line["preprocess"] == figure["preprocess"]
    assert line["facts"]["modality"] == "CT"
    assert line["source_sha256"] == hashlib.sha256(ct(HOUNSFIELD)).hexdigest()
    png = (tmp_path / "flat" / line["image"]).read_bytes()
    assert line["sha256"] == hashlib.sha256(png).hexdigest()
    assert "1 pictures made of DICOM or NIfTI files" in capsys.readouterr().err


def test_no_tag_and_no_name_of_a_file_reaches_what_is_written_or_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    good, torn = canary_file(), canary_file()[:-50]
    stated = canary_file(BurnedInAnnotation="YES")
    files = {"a.dcm": good, "b.dcm": torn, "c.dcm": stated, "Canary-Dicom-Doe^Jane/x.dcm": good}
    folder = lay(tmp_path / "in", files)
    rows = [{"image": name, "caption": f"Scan {name[0]}."} for name in ("a.dcm", "b.dcm", "c.dcm")]
    rows.append({"image": "Canary-Dicom-Doe^Jane", "caption": "A study."})
    table = table_of(tmp_path, rows)
    out = tmp_path / "out"
    words = ("--images", folder, "--table", table, "--out", out / "f.jsonl")
    assert run(*words, "--out-images", out / "flat") == 3

    written = [path for path in out.rglob("*") if path.is_file()]
    held = [path.name for path in written if b"Canary-Dicom" in path.read_bytes()]
    assert len(written) == 4  # figures, problems, conversions, and one picture of equal pixels
    assert held == []
    assert [path.name for path in out.rglob("*") if "Canary" in path.name] == []
    printed = capfd.readouterr()
    assert "Canary-Dicom" not in printed.out + printed.err


def test_burned_in_text_is_refused_until_it_may_be_masked_or_kept(tmp_path: Path) -> None:
    slope = np.arange(1600, dtype=np.uint16).reshape(40, 40)
    folder = lay(tmp_path / "in", {"a.dcm": dicom(slope, BurnedInAnnotation="YES")})
    table = table_of(tmp_path, [{"image": "a.dcm", "caption": "A scan."}])
    flat = ("--out-images", tmp_path / "flat")
    assert make(folder, table, *flat) == 1
    assert "give --burned-in mask or allow" in str(left_out(tmp_path))
    assert not list((tmp_path / "flat").iterdir())

    assert make(folder, table, *flat, "--burned-in", "mask") == 0
    (line,) = converted(tmp_path)
    assert line["facts"]["masked"]
    assert Image.open(tmp_path / "flat" / line["image"]).getpixel((2, 20)) == 0
    assert make(folder, table, *flat, "--burned-in", "allow", "--force") == 0
    (line,) = converted(tmp_path)
    assert Image.open(tmp_path / "flat" / line["image"]).getpixel((2, 20)) == 128


def test_frames_of_a_file_are_chosen_by_row(tmp_path: Path) -> None:
    frames = np.stack([np.full((30, 30), 9, np.uint8), np.eye(30, dtype=np.uint8)])
    folder = lay(tmp_path / "in", {"cine.dcm": dicom(frames)})
    rows = [
        {"image": "cine.dcm", "caption": f"Frame {frame}.", "frame": frame}
        for frame in ("1", "2", "3", "x")
    ]
    assert make(folder, table_of(tmp_path, rows), "--out-images", tmp_path / "flat") == 3
    assert [line["facts"]["frame"] for line in converted(tmp_path)] == [1, 2]
    assert [str(kind) for _, kind in left_out(tmp_path)] == [
        "image cannot be converted: frame is 3; this file has 1 to 2",
        "frame is no number from 1",
    ]


def test_a_study_is_a_folder_whose_images_share_a_caption(tmp_path: Path) -> None:
    views = {f"s1/{name}": dicom(np.full((30, 30), 0, np.uint8) + np.eye(30, dtype=np.uint8) * n)
             for n, name in enumerate(("pa.dcm", "lateral.dcm"), 1)}  # fmt: skip
    views |= {"s1/notes.txt": b"not an image", "s2/torn.dcm": bytes(128) + b"DICM"}
    many = {f"s3/{n:02}.dcm": dicom(np.full((30, 30), n, np.uint8)) for n in range(17)}
    slope = np.arange(900, dtype=np.uint8).reshape(30, 30)
    folder = lay(tmp_path / "in", {**views, **many, "s1/deep/z.dcm": dicom(slope)})
    rows = [{"image": f"s{n}", "caption": f"Report {n}.", "id": f"study-{n}"} for n in (1, 2, 3)]
    rows.append({"image": ".", "caption": "All.", "id": "all"})
    assert make(folder, table_of(tmp_path, rows), "--out-images", tmp_path / "flat") == 3

    found = figures(tmp_path)
    # pa and lateral have the same pixels once their range is stretched: one picture, said once
    assert [(figure["pair_id"], figure["fig_caption"]) for figure in found] == [
        ("study-1", "Report 1."), ("study-1-2", "Report 1."),
    ]  # fmt: skip
    assert len({figure["image"] for figure in found}) == 2
    assert [row for row, _ in left_out(tmp_path)] == [2, 3, 4, 5]


def test_medical_files_inside_a_table_are_converted_too(tmp_path: Path) -> None:
    images = [shipped("CT_small.dcm"), shipped("MR_small.dcm")]
    table = arrow.table({"image": images, "caption": ["A chest.", "A back."]})
    parquet.write_table(table, tmp_path / "t.parquet")
    words = ("--table", tmp_path / "t.parquet", "--out", tmp_path / "figures.jsonl")
    assert run(*words, "--out-images", tmp_path / "flat") == 0
    assert [str(figure["image"])[:3] for figure in figures(tmp_path)] == ["ct-", "mr-"]


def test_what_is_missing_or_fits_no_file_is_said(tmp_path: Path, capsys) -> None:
    folder = lay(scans(tmp_path, "a.png"), {"b.dcm": ct(HOUNSFIELD)})
    rows = [{"image": name, "caption": "A scan."} for name in ("a.png", "b.dcm")]
    table = table_of(tmp_path, rows)
    assert make(folder, table) == 3
    assert left_out(tmp_path) == [
        (3, "image is DICOM or NIfTI, which is converted: give --out-images")
    ]
    assert not (tmp_path / "figures.jsonl.converted.jsonl").exists()
    assert make(folder, table, "--force", "--window", "nonsense") == 1
    assert "window: there is no such window" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("window", "said"),
    [("40/x", "neither a name nor"), ("40/0", "width from 1"), ("nan/5", "width from 1")],
)
def test_windows_that_are_none(window: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        choice_of("default", window, None)
