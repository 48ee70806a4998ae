"""What benchmarks ask and show is found again: other words, other sizes, other compression."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datagen.errors import DataError
from datagen.postprocess.benchmarks import Benchmarks, QuestionIndex, words_of
from datagen.postprocess.image_check import ImageCheck, hash_image


def picture(seed: int, size: int = 256) -> Image.Image:
    """Return smooth blobs, as a scan has them."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 255, (12, 12), dtype=np.uint8))
    return coarse.resize((size, size), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    folder = tmp_path / "rad"
    (folder / "images").mkdir(parents=True)
    for number in range(5):
        (folder / "images" / f"{number}.png").write_bytes(encoded(picture(number)))
    items = [
        {
            "id": number,
            "image": f"{number}.png",
            "conversations": [
                {"from": "human", "value": "Is there free air under the right diaphragm?\n<image>"},
                {"from": "gpt", "value": "yes"},
            ],
        }
        for number in range(5)
    ]
    (folder / "test.json").write_text(json.dumps(items))
    (folder / "train.json").write_text(json.dumps([items[0] | {"id": 9}]))
    (folder / "manifest.json").write_text("{}")
    return folder


def test_a_benchmark_is_read_without_its_training_split(benchmark: Path) -> None:
    found = Benchmarks([benchmark])

    assert found.described == [{"name": "rad", "questions": 1, "images": 5}]
    assert found.questions.has("is there free air under the RIGHT diaphragm")


def test_a_file_of_chat_questions_is_read(tmp_path: Path) -> None:
    file = tmp_path / "qa.jsonl"
    text = "What are the main findings in this chest film?\n<image>"
    file.write_text(json.dumps({"question_id": 0, "image": "a.jpg", "text": text}) + "\n")

    assert Benchmarks([file]).questions.has("What are the main findings in this chest film?")


def test_what_asks_nothing_is_no_benchmark(tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text('[{"id": 1}]')
    with pytest.raises(DataError, match="asks nothing"):
        Benchmarks([tmp_path])


def test_questions_in_nearly_the_same_words_are_found_and_short_ones_are_everybodys() -> None:
    index = QuestionIndex(
        [words_of("Is there free air under the right diaphragm in this film?"), words_of("Why?")]
    )

    assert index.has("Is there any free air under the right diaphragm in this film?")
    assert not index.has("Is there a mass in the left lung of this film?")
    assert not index.has("Why?")


def test_copies_of_a_benchmarks_image_are_found(benchmark: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "same.png").write_bytes(encoded(picture(1)))
    (images / "jpeg.jpg").write_bytes(encoded(picture(1), "JPEG", quality=60))
    small = picture(2).resize((140, 140))
    (images / "small.jpg").write_bytes(encoded(small.convert("RGB"), "JPEG", quality=80))
    (images / "other.png").write_bytes(encoded(picture(77)))
    (images / "broken.png").write_bytes(encoded(picture(3))[:200])
    (images / "flat.png").write_bytes(encoded(Image.new("L", (64, 64), 9)))
    (images / "out.png").symlink_to(benchmark / "images" / "1.png")

    with ImageCheck(images, tmp_path / "hashes") as check:
        check.forbid(Benchmarks([benchmark]).images, lambda: None)
        found = {file.name: check.reason_against(file.name) for file in images.iterdir()}
        missing = check.reason_against("none.png")

    assert missing == "image_missing"
    assert found == {
        "same.png": "benchmark_image",
        "jpeg.jpg": "benchmark_image",
        "small.jpg": "benchmark_image",
        "other.png": None,
        "broken.png": "image_unreadable",
        "flat.png": None,
        "out.png": "image_outside",
    }


def test_hashes_are_kept_until_a_file_changes(benchmark: Path, tmp_path: Path) -> None:
    images = benchmark / "images"
    with ImageCheck(images, tmp_path / "hashes") as check:
        assert check.reason_against("0.png") is None
    before = (images / "0.png").stat()
    (images / "0.png").write_bytes(b"x" * before.st_size)
    os.utime(images / "0.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    with ImageCheck(images, tmp_path / "hashes") as check:
        assert check.reason_against("0.png") is None  # not read again
        (images / "0.png").write_bytes(b"x" * 5)
        assert check.reason_against("0.png") == "image_unreadable"


def test_deep_images_are_scaled_and_not_clipped() -> None:
    deep = Image.fromarray(np.asarray(picture(4)).astype(np.uint16) * 200 + 300)

    of_deep, of_flat = hash_image(encoded(deep)).looks, hash_image(encoded(picture(4))).looks

    assert of_deep is not None
    assert of_flat is not None
    assert (of_deep ^ of_flat).bit_count() <= 4
