"""`galen data captions`: tables of any kind become figures, and what does not is told."""

import json
import os
from pathlib import Path

import pyarrow as arrow  # pyright: ignore[reportMissingTypeStubs] - it has none
import pytest
from PIL import Image
from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs] - it has none

from datagen.figures import figure_of
from datagen.phantoms.writing import Counts, write_data
from datagen.records import read_records
from tests.datagen.captions.tables import figures, left_out, make, run, scans

ROWS = [
    {"image": "a.png", "caption": "CT of the liver.", "domain": "CT", "license": "CC0"},
    {"image": "b.png", "caption": 'A "quoted", long\none.', "domain": "mri;gross", "license": ""},
]


def write_table(file: Path, rows: list[dict[str, str]]) -> Path:
    names = list(rows[0])
    if file.suffix == ".jsonl":
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows), "utf-8")
    elif file.suffix == ".parquet":
        parquet.write_table(arrow.Table.from_pylist(rows), file)
    else:
        by = "\t" if file.suffix == ".tsv" else ","
        cells = [[f'"{row[name].replace(chr(34), chr(34) * 2)}"' for name in names] for row in rows]
        lines = [by.join(names), *(by.join(row) for row in cells)]
        file.write_text("\n".join([*lines, ""]), "utf-8")
    return file


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".json", ".jsonl", ".parquet"])
def test_every_kind_of_table_gives_the_same_figures(kind: str, tmp_path: Path, capsys) -> None:
    table = write_table(tmp_path / f"t{kind}", ROWS)
    assert make(scans(tmp_path, "a.png", "b.png"), table) == 0
    first, second = figures(tmp_path)
    assert first == {
        "pair_id": "a",
        "image": "a.png",
        "fig_label": "",
        "fig_caption": "CT of the liver.",
        "in_text_mention": None,
        "domain": {
            "chest_xray": False, "mri": False, "histology": False, "gross": False, "ct_scan": True,
        },
        "licence": "CC0",
    }  # fmt: skip
    assert second["fig_caption"] == 'A "quoted", long\none.'
    assert figure_of(second).domains == ("mri", "gross")
    assert not (tmp_path / "figures.jsonl.problems.jsonl").exists()
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'figures.jsonl'}: 2 figures\n"
    assert "image from 'image', caption from 'caption'" in printed.err


def test_what_was_made_is_read_as_figures(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", ROWS)
    assert make(scans(tmp_path, "a.png", "b.png"), table) == 0
    found = [figure_of(each.record) for each in read_records(tmp_path / "figures.jsonl", print)]
    assert [figure.pair_id for figure in found] == ["a", "b"]


def test_usual_names_of_columns_are_guessed_and_others_are_said(tmp_path: Path) -> None:
    folder = scans(tmp_path, "a.png")
    (tmp_path / "t.csv").write_text("File Name,Report,Text\na.png,one,two\n", "utf-8")
    assert make(folder, tmp_path / "t.csv") == 0
    assert figures(tmp_path)[0]["fig_caption"] == "two"
    assert make(folder, tmp_path / "t.csv", "--caption-column", "Report", "--force") == 0
    assert figures(tmp_path)[0]["fig_caption"] == "one"


@pytest.mark.parametrize(
    ("head", "words", "said"),
    [
        ("image,what", (), "no column for the caption"),
        ("one,caption", (), "no column for the image"),
        ("image,caption", ("--id-column", "x"), "no column 'x' for the id"),
        ("image,image", (), "two of one name"),
        ("image,caption", ("--encoding", "klingon"), "is unknown"),
        ("image,caption", ("--encoding", "utf-16"), "convert the table to UTF-8"),
    ],
)
def test_a_table_that_cannot_be_understood_is_one_line(
    head: str, words: tuple[str, ...], said: str, tmp_path: Path, capsys
) -> None:
    (tmp_path / "t.csv").write_text(f"{head}\na.png,x\n", "utf-8")
    assert make(scans(tmp_path, "a.png"), tmp_path / "t.csv", *words) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "figures.jsonl").exists()


def test_a_byte_order_mark_and_other_encodings(tmp_path: Path, capsys) -> None:
    folder, table = scans(tmp_path, "a.png"), tmp_path / "t.csv"
    table.write_bytes("\ufeffimage,caption\na.png,na\u00efve\n".encode())
    assert make(folder, table) == 0
    assert figures(tmp_path)[0]["fig_caption"] == "na\u00efve"
    table.write_bytes("image;caption\na.png;na\u00efve\n".encode("cp1252"))
    assert make(folder, table, "--force") == 1
    assert f"line 2 of {table} is not utf-8" in capsys.readouterr().err
    assert make(folder, table, "--force", "--encoding", "cp1252") == 0
    assert figures(tmp_path)[0]["fig_caption"] == "na\u00efve"


def test_rows_that_cannot_be_used_are_listed_with_their_reason(tmp_path: Path, capsys) -> None:
    folder = scans(tmp_path, "a.png", "b.png")
    (folder / "torn.png").write_bytes((folder / "a.png").read_bytes()[:20])
    (folder / "link.png").symlink_to("/etc/hostname")
    (folder / "folder.png").mkdir()
    lines = [
        "image,caption,id",
        "a.png,good,1",
        "a.png,,2",
        ",x,3",
        "none.png,x,4",
        "torn.png,x,5",
        "../t.csv,x,6",
        "link.png,x,7",
        "folder.png,x,8",
        "a.png,good,9",
        "b.png,x,1",
        "b.png,y,../z",
        "b.png",
        "b.png,last,13",
    ]
    (tmp_path / "t.csv").write_text("\n".join([*lines, ""]), "utf-8")
    assert make(folder, tmp_path / "t.csv") == 3
    assert [figure["pair_id"] for figure in figures(tmp_path)] == ["1", "13"]
    assert left_out(tmp_path) == [
        (3, "no caption"),
        (4, "no image named"),
        (5, "image not found"),
        (6, "image cannot be read"),
        (7, "image outside the folder"),
        (8, "image outside the folder"),
        (9, "image is a folder without DICOM or NIfTI files"),
        (10, "twice: an earlier row has this image and caption"),
        (11, "twice: an earlier row has this id"),
        (12, "id is no name of a file"),
        (13, "1 cells where 3 columns have names"),
    ]
    err = capsys.readouterr().err
    assert "2 left out: image outside the folder" in err
    assert "figures.jsonl.problems.jsonl" in err


def test_an_open_quote_ends_the_table_and_is_told(tmp_path: Path) -> None:
    text = 'image,caption\na.png,good\na.png,"open\nb.png,x\n'
    (tmp_path / "t.csv").write_text(text, "utf-8")
    assert make(scans(tmp_path, "a.png", "b.png"), tmp_path / "t.csv") == 3
    assert len(figures(tmp_path)) == 1
    ((row, kind),) = left_out(tmp_path)
    assert row == 4
    assert str(kind).startswith("broken quotes")


def test_several_captions_of_one_image_have_names_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,caption\na.png,x\na.png,y\na.png,z\n", "utf-8")
    assert make(scans(tmp_path, "a.png"), tmp_path / "t.csv") == 0
    assert [figure["pair_id"] for figure in figures(tmp_path)] == ["a", "a-2", "a-3"]


def test_images_in_sub_folders_are_refused_or_placed(tmp_path: Path) -> None:
    folder = scans(tmp_path, "a.png", "one/a.png", "two/a.png", "two/odd name!.png")
    rows = ("a.png,w", "one/a.png,x", "two/a.png,y", "one/../two/odd name!.png,z")
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["image,caption", *rows, ""]), "utf-8")
    assert make(folder, table) == 3
    assert [kind for _, kind in left_out(tmp_path)] == [
        "image in a sub-folder: give --out-images"
    ] * 3
    flat = tmp_path / "flat"
    for _ in range(2):  # the second time all is there
        assert make(folder, table, "--force", "--out-images", flat) == 0
    found = figures(tmp_path)
    names = [str(figure["image"]) for figure in found]
    assert names[0] == "a.png"
    assert len(set(names)) == 4
    assert sorted(names) == sorted(path.name for path in flat.iterdir())
    for figure, source in zip(found, ("a.png", "one/a.png", "two/a.png"), strict=False):
        assert (flat / str(figure["image"])).read_bytes() == (folder / source).read_bytes()
        figure_of(figure)


def test_a_file_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    folder, flat = scans(tmp_path, "a.png", "b.png"), tmp_path / "flat"
    flat.mkdir()
    (flat / "a.png").write_bytes(b"mine")
    (tmp_path / "t.csv").write_text("image,caption\na.png,x\nb.png,y\n", "utf-8")
    assert make(folder, tmp_path / "t.csv", "--out-images", flat) == 3
    assert left_out(tmp_path) == [(2, "another file has its name in --out-images")]
    assert (flat / "a.png").read_bytes() == b"mine"
    assert make(folder, tmp_path / "t.csv", "--out-images", folder, "--force") == 1


def test_another_image_of_the_same_size_and_date_is_another_one(tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    (tmp_path / "t.csv").write_text("image,caption\na.bmp,x\n", "utf-8")
    for number, code in enumerate((0, 1)):  # 1: no row is left
        folder = tmp_path / f"scans{number}"
        folder.mkdir()
        Image.new("L", (8, 8), number).save(folder / "a.bmp")
        os.utime(folder / "a.bmp", (1, 1))
        assert make(folder, tmp_path / "t.csv", "--force", "--out-images", flat) == code
    assert (flat / "a.bmp").read_bytes() == (tmp_path / "scans0" / "a.bmp").read_bytes()


def test_what_is_there_is_replaced_only_with_force(tmp_path: Path, capsys) -> None:
    table = write_table(tmp_path / "t.csv", ROWS)
    (tmp_path / "figures.jsonl").write_text("mine", "utf-8")
    folder = scans(tmp_path, "a.png", "b.png")
    assert make(folder, table) == 1
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "figures.jsonl").read_text("utf-8") == "mine"
    assert make(folder, table, "--force") == 0


def test_where_no_row_can_be_used_nothing_is_made(tmp_path: Path, capsys) -> None:
    (tmp_path / "t.csv").write_text("image,caption\nz.png,x\n", "utf-8")
    assert make(scans(tmp_path, "a.png"), tmp_path / "t.csv") == 1
    assert "image not found: 1" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "figures.jsonl.problems.jsonl",
        "scans",
        "t.csv",
    ]


def test_mentions_and_domains_in_json(tmp_path: Path, capsys) -> None:
    rows = [
        {"image": "a.png", "caption": "x", "domain": {"mri": True, "ct_scan": False},
         "mention": ["One.", {"tokens": ["Two", "."]}, 3]},
        {"image": "a.png", "caption": "y", "modality": "ultrasound", "mentions": "Three."},
        {"image": "a.png", "caption": "z", "domain": '["CXR"]', "mention": '["Four."]'},
        {"image": "a.png", "caption": 7},
        {"image": {"bytes": "", "path": None}, "caption": "x"},
        {"image": "a.png", "caption": "\ud800 lone"},
    ]  # fmt: skip
    (tmp_path / "t.json").write_text(json.dumps(rows), "utf-8")
    assert make(scans(tmp_path, "a.png"), tmp_path / "t.json") == 3
    found = figures(tmp_path)
    assert [figure["in_text_mention"] for figure in found] == [
        ["One.", "Two ."], ["Three."], ["Four."], None,
    ]  # fmt: skip
    assert [figure_of(figure).domains for figure in found] == [("mri",), (), ("chest_xray",), ()]
    assert [row for row, _ in left_out(tmp_path)] == [4, 5]
    assert "1 rows name a domain that is none of ours" in capsys.readouterr().err


def test_captions_of_phantoms_become_figures(tmp_path: Path) -> None:
    """As docs/data.md says it with jq."""
    write_data(tmp_path / "p", 0, Counts(0, 0, 0, 0, 3, 0, 0, 0, 0), force=False)
    items = json.loads((tmp_path / "p" / "phantoms" / "alignment.json").read_text("utf-8"))
    rows = [{"image": i["image"], "caption": i["conversations"][1]["value"]} for i in items]
    table = write_table(tmp_path / "t.jsonl", rows)
    assert make(tmp_path / "p" / "phantoms" / "images", table) == 0
    assert len(figures(tmp_path)) == 3


def test_misuse_ends_with_2(tmp_path: Path) -> None:
    assert run("--images", tmp_path) == 2
    assert run("--images", tmp_path / "none", "--table", "x.csv", "--out", "y") == 2


def test_help_has_examples(capsys) -> None:
    assert run("--help") == 0
    assert "galen data captions --images ./scans" in capsys.readouterr().out
