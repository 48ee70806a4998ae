"""Public benchmarks, in small files of exactly their schemas, become what is evaluated."""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from evaluation.vqa_items import read_items
from tests.end_to_end.launched import galen


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def rad_record(qid: int, image: str, phrase: str, answer: Any, kind: str) -> dict[str, Any]:
    return {
        "qid": str(qid),
        "phrase_type": phrase,
        "qid_linked_id": "x",
        "image_case_url": "https://example.org/1",
        "image_name": image,
        "image_organ": "HEAD",
        "evaluation": "not evaluated",
        "question": f"Question {qid}? ",
        "question_rephrase": "NULL",
        "question_relation": "NULL",
        "question_frame": "NULL",
        "question_type": "PRES",
        "answer": answer,
        "answer_type": kind,
    }


@pytest.fixture
def vqa_rad(tmp_path: Path) -> Path:
    raw = tmp_path / "raw"
    (raw / "VQA_RAD Image Folder").mkdir(parents=True)
    for number in range(3):
        (raw / "VQA_RAD Image Folder" / f"synpic{number}.jpg").write_bytes(jpeg(number))
    records = [
        rad_record(1, "synpic0.jpg", "freeform", "Yes", "CLOSED "),
        rad_record(2, "synpic0.jpg", "test_freeform", "left lung", "OPEN"),
        rad_record(3, "synpic1.jpg", "test_para", "No", "CLOSED"),
        rad_record(4, "synpic2.jpg", "para", 5, "OPEN"),
    ]
    (raw / "VQA_RAD Dataset Public.json").write_text(json.dumps(records), "utf-8")
    return raw


def prepare(name: str, raw: Path) -> Any:
    return galen("data", "prepare", name, "--raw", str(raw), "--out", str(raw.parent / "out"))


def test_vqa_rad_is_split_by_its_phrase_type(vqa_rad: Path):
    done = prepare("vqa-rad", vqa_rad)
    assert done.returncode == 0, done.stderr
    out = vqa_rad.parent / "out"
    test, train = read_items(out / "test.json"), read_items(out / "train.json")
    assert [(item.id, item.is_closed) for item in test] == [("2", False), ("3", True)]
    assert [(item.question, item.reference) for item in train] == [
        ("Question 1?", "Yes"), ("Question 4?", "5")
    ]  # fmt: skip
    assert sorted(path.name for path in (out / "images").iterdir()) == [
        "synpic0.jpg", "synpic1.jpg", "synpic2.jpg"
    ]  # fmt: skip
    assert "no: 179 and 272" in done.stdout
    assert "train and test share 1 images" in done.stderr
    manifest = json.loads((out / "manifest.json").read_text("utf-8"))
    assert (manifest["test"]["open"], manifest["test"]["closed"]) == (1, 1)


def test_slake_keeps_its_english_questions(tmp_path: Path):
    raw = tmp_path / "raw"
    for number in range(2):
        (raw / "imgs" / f"xmlab{number}").mkdir(parents=True)
        (raw / "imgs" / f"xmlab{number}" / "source.jpg").write_bytes(jpeg(number))
    for name, qid in (("train", 0), ("validation", 10), ("test", 20)):
        records = [
            {
                "img_id": 1, "img_name": "xmlab1/source.jpg", "question": "Which organ?",
                "answer": "Liver", "q_lang": language, "location": "Abdomen", "modality": "CT",
                "answer_type": "OPEN", "base_type": "vqa", "content_type": "Organ",
                "triple": ["vhead", "_", "_"], "qid": qid + number,
            }
            for number, language in enumerate(("en", "zh"))
        ]  # fmt: skip
        (raw / f"{name}.json").write_text(json.dumps(records), "utf-8")
    done = prepare("slake", raw)
    assert done.returncode == 0, done.stderr
    (item,) = read_items(tmp_path / "out" / "val.json")
    assert (item.id, item.image, item.kind) == ("10", "xmlab1_source.jpg", "Organ")
    assert (tmp_path / "out" / "images" / "xmlab1_source.jpg").read_bytes() == jpeg(1)
    assert "share 1 images" in done.stderr


def write_pathvqa(raw: Path) -> None:
    (raw / "data").mkdir(parents=True)
    rows = {
        "train": [(0, "Where is it?", "liver"), (0, "Is it so?", "Yes")],
        "validation": [(1, "What is shown?", "gland")],
        "test": [(2, "is it?", "no"), (3, "how many?", "two"), (2, "how?", "by staining")],
    }
    for name, asked in rows.items():
        for part, some in enumerate((asked[:1], asked[1:])):
            table = pa.table(
                {
                    "image": [{"bytes": jpeg(image), "path": None} for image, _, _ in some],
                    "question": [question for _, question, _ in some],
                    "answer": [answer for _, _, answer in some],
                },
                schema=pa.schema(
                    [
                        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                        ("question", pa.string()),
                        ("answer", pa.string()),
                    ]
                ),
            )
            file = raw / "data" / f"{name}-{part:05d}-of-00002.parquet"
            parquet.write_table(table, file)


def test_pathvqa_comes_out_of_its_tables(tmp_path: Path):
    write_pathvqa(tmp_path / "raw")
    done = prepare("pathvqa", tmp_path / "raw")
    assert done.returncode == 0, done.stderr
    test = read_items(tmp_path / "out" / "test.json")
    assert [(item.id, item.is_closed, item.kind) for item in test] == [
        ("test-0", True, "yes/no"), ("test-1", False, "how"), ("test-2", False, "how")
    ]  # fmt: skip
    assert test[0].image == test[2].image != test[1].image
    assert len(list((tmp_path / "out" / "images").iterdir())) == 4
    assert "share" not in done.stderr


def test_a_pickle_is_refused(tmp_path: Path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "train_qa.pkl").write_bytes(b"\x80\x04N.")
    done = prepare("pathvqa", raw)
    assert done.returncode == 1
    assert "is a pickle, which may run code" in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_used_is_left_out_and_counted(vqa_rad: Path):
    folder = vqa_rad / "VQA_RAD Image Folder"
    (folder / "synpic0.jpg").write_bytes(b"")
    (folder / "synpic1.jpg").unlink()
    os.mkfifo(folder / "synpic1.jpg")  # nobody waits for who writes into it
    (folder / "synpic2.jpg").unlink()
    (folder / "synpic2.jpg").symlink_to("/etc/hostname")
    done = prepare("vqa-rad", vqa_rad)
    assert done.returncode == 3
    assert "train: 2 questions left out: an image is missing or cannot be read" in done.stderr
    assert "test: 2 questions left out" in done.stderr


@pytest.mark.parametrize("name", ["../up.jpg", "/etc/passwd", "a/b.jpg", ".hidden.jpg"])
def test_a_name_that_leads_elsewhere_is_left_out(vqa_rad: Path, name: str):
    file = vqa_rad / "VQA_RAD Dataset Public.json"
    records = json.loads(file.read_text("utf-8"))
    records[0]["image_name"] = name
    file.write_text(json.dumps(records), "utf-8")
    done = prepare("vqa-rad", vqa_rad)
    assert done.returncode == 3
    assert "train: 1 questions left out: an image's name leads elsewhere" in done.stderr
    assert len(read_items(vqa_rad.parent / "out" / "train.json")) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer_type": "OTHER"}, "record 1: answer_type 'OTHER'; allowed are"),
        ({"question": None}, "record 1 has no question"),
        ({"qid": True}, "record 1 has no qid"),
    ],
)
def test_a_record_of_another_shape_is_named(vqa_rad: Path, change: dict[str, Any], said: str):
    file = vqa_rad / "VQA_RAD Dataset Public.json"
    records = json.loads(file.read_text("utf-8"))
    records[1] |= change
    file.write_text(json.dumps(records), "utf-8")
    done = prepare("vqa-rad", vqa_rad)
    assert done.returncode == 1
    assert said in done.stderr
    assert not (vqa_rad.parent / "out").exists()


@pytest.mark.parametrize("name", ["vqa-rad", "slake", "pathvqa"])
def test_a_folder_without_the_original_is_one_line(tmp_path: Path, name: str):
    (tmp_path / "raw").mkdir()
    done = prepare(name, tmp_path / "raw")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "holds no" in done.stderr


def test_a_folder_that_is_there_is_left_alone(vqa_rad: Path):
    (vqa_rad.parent / "out").mkdir()
    done = prepare("vqa-rad", vqa_rad)
    assert done.returncode == 1
    assert "is there already" in done.stderr
