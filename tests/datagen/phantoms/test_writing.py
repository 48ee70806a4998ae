"""Files of a whole curriculum: their schemas, splits and repeatability."""

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datagen.phantoms import writing
from datagen.phantoms.errors import PhantomError
from datagen.phantoms.output_files import MANIFEST
from datagen.phantoms.questions import Question
from datagen.phantoms.vqa import guess_unseen
from datagen.phantoms.writing import Counts, draw_one, write_data
from modeling.conversations import parse_item

SMALL = Counts(30, 30, 40, 20, 15, 15, 20, 40, 40)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantoms") / "out"
    write_data(out, seed=3, counts=SMALL)
    return out


def records(file: Path) -> list[dict]:
    return json.loads(file.read_text("utf-8"))


def truths(world: Path) -> list[dict]:
    return [json.loads(line) for line in (world / "truth.jsonl").read_text("utf-8").splitlines()]


def hashes(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_every_record_is_a_conversation_of_llava_med(written: Path) -> None:
    files = sorted(written.rglob("*.json"))
    files.remove(written / MANIFEST)
    assert len(files) == 9
    for file in files:
        found = records(file)
        assert found
        assert len({record["id"] for record in found}) == len(found)
        shown = 0 if file.name == "text_only.json" else 1
        for record in found:
            conversation = parse_item(record)
            assert conversation.turns[0].num_images == conversation.num_images == shown
            assert [turn.role for turn in conversation.turns[:2]] == ["user", "assistant"]


def test_every_image_that_is_named_is_there_and_has_its_truth(written: Path) -> None:
    for world in (written / "shapes", written / "phantoms"):
        known = {truth["image"] for truth in truths(world)}
        assert known == {file.name for file in (world / "images").iterdir()}
        for file in world.rglob("*.json"):
            assert {r["image"] for r in records(file) if "image" in r} <= known
        with Image.open(world / "images" / min(known)) as image:
            assert (image.mode, image.size, image.format) == ("RGB", (64, 64), "PNG")


def test_answers_agree_with_the_truth(written: Path) -> None:
    for world, file in (("shapes", "qa.json"), ("phantoms", "vqa/train.json")):
        truth = {each["image"]: each for each in truths(written / world)}
        for record in records(written / world / file):
            answer = record["conversations"][1]["value"]
            if record["answer_type"] == "OPEN":
                assert answer == truth[record["image"]][record["question_type"]]
            else:
                assert answer in {"yes", "no"}


def test_questions_of_an_image_stand_together(written: Path) -> None:
    images = [record["image"] for record in records(written / "phantoms" / "vqa" / "train.json")]
    changes = sum(a != b for a, b in pairwise(images))
    assert changes == len(set(images)) - 1
    assert len(images) > 4 * len(set(images))


def test_no_two_images_are_the_same(written: Path) -> None:
    for world in ("shapes", "phantoms"):
        found = list(hashes(written / world / "images").values())
        assert len(set(found)) == len(found)


def test_no_image_belongs_to_two_sets(written: Path) -> None:
    phantoms = written / "phantoms"
    names = ("alignment.json", "instruct.json", "vqa/train.json", "vqa/val.json", "vqa/test.json")
    sets = [{record["image"] for record in records(phantoms / name)} for name in names]
    assert len(set.union(*sets)) == sum(map(len, sets))


@pytest.mark.parametrize(
    "file", ["shapes/test.json", "phantoms/vqa/val.json", "phantoms/vqa/test.json"]
)
def test_examinations_as_written_are_guessed_half_right(written: Path, file: str) -> None:
    questions = [
        Question(
            record["question_type"],
            is_closed=record["answer_type"] == "CLOSED",
            text=record["conversations"][0]["value"],
            answer=record["conversations"][1]["value"],
            sentence="",
        )
        for record in records(written / file)
    ]
    guessing = guess_unseen(questions)
    assert guessing.closed == 0.5
    assert guessing.open is not None
    assert guessing.open < 0.75


def test_the_same_seed_writes_the_same_bytes(written: Path, tmp_path: Path) -> None:
    write_data(tmp_path / "again", seed=3, counts=SMALL)
    assert hashes(tmp_path / "again") == hashes(written)


def test_another_seed_or_set_draws_other_images() -> None:
    first = [np.asarray(draw_one(seed, "train", 0)[1]) for seed in (0, 1)]
    other = np.asarray(draw_one(0, "test", 0)[1])
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], other)


def test_more_images_of_a_set_leave_the_first_as_they_were(tmp_path: Path) -> None:
    for number in (2, 3):
        counts = Counts(**(dict.fromkeys(Counts.__dataclass_fields__, 0) | {"vqa_val": number}))
        write_data(tmp_path / str(number), counts=counts)
    few, many = (hashes(tmp_path / name / "phantoms" / "images") for name in ("2", "3"))
    assert len(few) == 2
    assert few.items() < many.items()


def test_several_processes_write_the_same_bytes(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr(writing, "_AT_ONCE", 2)
    write_data(tmp_path / "again", seed=3, counts=SMALL)
    assert hashes(tmp_path / "again") == hashes(written)


def test_the_manifest_has_seed_counts_and_hashes(written: Path) -> None:
    manifest = json.loads((written / MANIFEST).read_text("utf-8"))
    assert (manifest["seed"], manifest["complete"]) == (3, True)
    assert manifest["counts"]["vqa_test"] == 40
    found = hashes(written)
    assert len(manifest["files"]) == 11
    for name, noted in manifest["files"].items():
        assert noted["sha256"] == found[name]


def test_what_is_there_is_replaced_only_by_force_and_if_it_is_ours(tmp_path: Path) -> None:
    out = tmp_path / "out"
    tiny = Counts(1, 1, 1, 1, 1, 1, 1, 1, 1)
    write_data(out, counts=tiny)
    before = hashes(out)
    with pytest.raises(PhantomError, match="is there already"):
        write_data(out, seed=1, counts=tiny)
    assert hashes(out) == before
    write_data(out, seed=1, counts=tiny, force=True)
    assert hashes(out) != before
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(PhantomError, match="was not made by this command"):
        write_data(foreign, counts=tiny, force=True)
    assert (foreign / "thesis.txt").read_text() == "mine"


def test_an_interrupted_run_leaves_nothing_and_its_rest_is_no_hindrance(tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop() -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        write_data(tmp_path / "out", counts=SMALL, advance=stop)
    assert list(tmp_path.iterdir()) == []
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / MANIFEST).write_text('{"generator": "galen-phantoms", "complete": false}')
    write_data(tmp_path / "out", counts=Counts(1, 1, 1, 1, 1, 1, 1, 1, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
