"""Votes of a real SQLite file and store, exported, and read by what training reads with."""

import asyncio
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from datagen.inspecting import inspect
from modeling.conversations import parse_item
from services.launcher.feedback_export import ExportPlan, run_export
from services.launcher.terminal import CommandError
from services.store.database import Database
from services.store.feedback_records import Evidence, NewVote, Voter, put_vote
from services.store.file_records import NewFile, add_file
from services.store.file_store import FileStore
from services.store.settings import StoreSettings
from training.examples import image_names
from training.records import Records

SECRET = "Canary-Exif-4717"


def picture(seed: int) -> bytes:
    """A JPEG that says a name beside its pixels, and stands on its side."""
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = SECRET, 6  # ImageDescription, Orientation
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (seed * 37 % 256, 7, 9)).save(file, "JPEG", exif=exif.tobytes())
    return file.getvalue()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Votes:
    """A store with votes."""

    def __init__(self, folder: Path) -> None:
        self.settings = StoreSettings(dir=folder / "store")
        self._number = 0

    def add(self, rating: str = "up", *, consent: bool = True, **evidence: Any) -> None:
        self._number += 1
        turns = [
            {"role": "user", "content": "Which organ?"},
            {"role": "assistant", "content": "The heart."},
        ]
        given = {"conversation": turns, "subject": "p1", "licence": "CC0", **evidence}
        kept = Evidence(**given) if consent else Evidence()
        vote = NewVote(f"r{self._number}", "m", "rev", rating, consent, kept)
        asyncio.run(self._put(vote))

    async def _put(self, vote: NewVote) -> None:
        database = Database(self.settings.database)
        await database.open()
        async with database.begin() as session:
            await put_vote(session, Voter("clinic", "key_1"), vote)
        await database.close()

    def upload(self, content: bytes) -> dict[str, str]:
        """A file of the tenant's, as a vote names it."""
        asyncio.run(self._upload(content))
        return {"file_id": f"file-{sha(content)[:8]}", "sha256": sha(content)}

    async def _upload(self, content: bytes) -> None:
        name = f"file-{sha(content)[:8]}"
        with FileStore(self.settings.files).writer(f"files/{name}") as out:
            out.write(content)
        database = Database(self.settings.database)
        await database.open()
        async with database.begin() as session:
            new = NewFile(
                name, "clinic", "a.jpg", "vision", len(content), sha(content), f"files/{name}"
            )
            await add_file(session, new)
        await database.close()


@pytest.fixture
def votes(tmp_path: Path) -> Votes:
    return Votes(tmp_path)


def export(votes: Votes, out: Path, **options: Any) -> tuple[int, dict[str, Any]]:
    code = run_export(ExportPlan(out, **options), votes.settings)
    return code, json.loads((out / "manifest.json").read_text())


def records_in(out: Path) -> list[dict[str, Any]]:
    found = Records(sorted(out.glob("*.jsonl")))  # training's own reader
    return [found.record(number) for number in range(len(found))]


def test_votes_with_consent_are_records_that_training_reads(votes: Votes, tmp_path: Path) -> None:
    scan = picture(2)
    (tmp_path / "pacs" / "deep").mkdir(parents=True)
    (tmp_path / "pacs" / "deep" / "scan").write_bytes(scan)
    votes.add(images=[{"sha256": sha(scan)}])
    votes.add("down", corrected_answer="The liver.", subject="p2")
    out = tmp_path / "out"

    code, manifest = export(votes, out, image_folders=(tmp_path / "pacs",))

    records = {each["source"]["request_id"]: each for each in records_in(out)}
    assert (code, manifest["num_records"], manifest["left_out"]) == (0, 2, {})
    assert [t["value"] for t in records["r1"]["conversations"]] == [
        "<image>\nWhich organ?", "The heart.",
    ]  # fmt: skip
    assert records["r2"]["conversations"][1] == {"from": "gpt", "value": "The liver."}
    assert records["r1"]["consent"] is True
    source = records["r1"]["source"]
    assert (source["model"], source["revision"], source["rating"]) == ("m", "rev", "up")
    assert (source["subject"], source["licence"], source["tenant"]) == ("p1", "CC0", "clinic")
    for file in out.glob("*.jsonl"):
        contents = inspect(file)  # `galen data inspect`
        assert (contents.problems, contents.num_records > 0) == ({}, True)


def test_several_images_stand_in_the_first_turn_as_training_reads_them(
    votes: Votes, tmp_path: Path
) -> None:
    votes.add(images=[votes.upload(picture(1)), votes.upload(picture(2))])

    export(votes, tmp_path / "out")

    (record,) = records_in(tmp_path / "out")
    assert record["conversations"][0]["value"] == "<image>\n<image>\nWhich organ?"
    names = image_names(record)  # training's own
    assert parse_item(record).num_images == len(names) == 2
    assert all((tmp_path / "out" / "images" / name).is_file() for name in names)


def test_images_come_out_upright_and_say_nothing_beside_their_pixels(
    votes: Votes, tmp_path: Path
) -> None:
    votes.add(images=[votes.upload(picture(1))])
    export(votes, tmp_path / "out")

    (file,) = (tmp_path / "out" / "images").iterdir()
    assert SECRET.encode() not in file.read_bytes()
    with Image.open(file) as image:
        assert (image.size, dict(image.getexif()), image.info) == ((30, 40), {}, {})


def test_what_is_left_out_is_counted_with_its_reason(votes: Votes, tmp_path: Path) -> None:
    kept = votes.upload(picture(1))
    broken = votes.upload(b"no image")
    votes.add(consent=False)
    votes.add("down")
    votes.add(conversation=None, subject=None, licence=None)
    votes.add(subject=None)
    votes.add(images=[{"sha256": "a" * 64}])
    votes.add(images=[kept, broken])
    votes.add()
    out = tmp_path / "out"

    code, manifest = export(votes, out)

    assert (code, manifest["num_votes"], manifest["num_records"]) == (0, 7, 1)
    assert manifest["left_out"] == {
        "a bad answer that nobody corrected": 1,
        "an image cannot be decoded": 1,
        "an image is not here": 1,
        "no consent": 1,
        "no conversation": 1,
        "no subject or licence": 1,
    }
    assert list((out / "images").iterdir()) == []  # not that of a vote that was left out


def test_a_damaged_image_costs_its_own_vote_only(votes: Votes, tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.effect_noise((300, 300), 90).save(file, "PNG")
    content = file.getvalue()
    second = content.index(b"IDAT", content.index(b"IDAT") + 4)
    damaged = content[:second] + b"\0\0\0\0" + content[second + 4 :]
    with Image.open(io.BytesIO(damaged)) as image, pytest.raises(SyntaxError):
        image.load()  # which is no OSError and no ValueError
    votes.add(images=[votes.upload(damaged)])
    votes.add(images=[votes.upload(picture(1))])

    code, manifest = export(votes, tmp_path / "out")

    assert (code, manifest["num_records"]) == (0, 1)
    assert manifest["left_out"] == {"an image cannot be decoded": 1}


@pytest.mark.parametrize("is_uploaded_first", [False, True])
def test_an_image_named_by_its_hash_may_be_another_votes_upload(
    is_uploaded_first: bool, votes: Votes, tmp_path: Path
) -> None:
    good, broken = votes.upload(picture(1)), votes.upload(b"no image")
    named, broken_too = ({"sha256": each["sha256"]} for each in (good, broken))
    given = [[named], [broken_too], [{"sha256": "a" * 64}, good], [broken]]
    for images in given[::-1] if is_uploaded_first else given:
        votes.add(images=images)

    _, manifest = export(votes, tmp_path / "out")

    assert manifest["num_records"] == 1
    assert manifest["left_out"] == {"an image cannot be decoded": 2, "an image is not here": 1}
    (record,) = records_in(tmp_path / "out")
    assert (tmp_path / "out" / "images" / record["image"]).is_file()


def test_what_is_exported_is_for_its_owner_alone(votes: Votes, tmp_path: Path) -> None:
    votes.add(images=[votes.upload(picture(1))])
    before = os.umask(0o022)
    try:
        export(votes, tmp_path / "out")
        assert os.umask(0o022) == 0o022  # as it was
    finally:
        os.umask(before)

    made = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    assert len(made) == 5
    for path in made:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_a_file_that_changed_in_the_store_is_not_taken_for_the_one_that_was_voted_on(
    votes: Votes, tmp_path: Path
) -> None:
    image = votes.upload(picture(1))
    votes.add(images=[image])
    with FileStore(votes.settings.files).writer(f"files/{image['file_id']}") as out:
        out.write(picture(2))

    code, manifest = export(votes, tmp_path / "out")

    assert (code, manifest["left_out"]) == (3, {"an image's file has changed": 1})


def test_no_subject_and_no_image_is_in_two_splits_and_an_export_repeats(
    votes: Votes, tmp_path: Path
) -> None:
    shared = [votes.upload(picture(seed)) for seed in range(6)]
    for number in range(24):
        votes.add(images=[shared[number % 6]], subject=f"p{number % 8}")
    shares = {"validation": 0.3, "test": 0.3}
    export(votes, tmp_path / "one", **shares)
    export(votes, tmp_path / "two", **shares)

    records = records_in(tmp_path / "one")
    assert len(records) == 24
    for key in (lambda r: r["source"]["subject"], lambda r: r["image"]):
        places: dict[str, set[str]] = {}
        for each in records:
            places.setdefault(key(each), set()).add(each["split"])
        assert all(len(found) == 1 for found in places.values())
    for file in (tmp_path / "one").glob("*.jsonl"):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_a_folder_that_is_there_is_left_alone(votes: Votes, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    with pytest.raises(CommandError, match="is there already"):
        run_export(ExportPlan(tmp_path / "out"), votes.settings)


def galen(*arguments: str, settings: StoreSettings) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.cli", "feedback", "export", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"GALEN_STORE_DIR": str(settings.dir), "PATH": ""},
    )


def test_the_command_says_what_it_did_by_its_exit_code(votes: Votes, tmp_path: Path) -> None:
    votes.add(consent=False)
    nothing = galen("--out", str(tmp_path / "a"), settings=votes.settings)
    votes.add()
    some = galen("--out", str(tmp_path / "b"), settings=votes.settings)
    again = galen("--out", str(tmp_path / "b"), settings=votes.settings)
    wrong = galen("--out", str(tmp_path / "c"), "--test", "0.9", "--validation", "0.2",
                  settings=votes.settings)  # fmt: skip

    codes = [each.returncode for each in (nothing, some, again, wrong)]
    assert codes == [3, 0, 1, 2], (nothing.stderr, some.stderr)
    assert "left out: 1: no consent" in nothing.stdout
    assert "1 records of 2 votes" in some.stdout
    assert "Traceback" not in again.stderr + wrong.stderr


def test_each_way_in_which_a_file_was_shown_is_a_picture_of_one_split(
    votes: Votes, tmp_path: Path
) -> None:
    ultrasound = Path(str(get_testdata_file("examples_ybr_color.dcm", download=False)))
    file = votes.upload(ultrasound.read_bytes())  # thirty frames
    ways: list[dict[str, Any]] = [{}, {"frame": 30}, {"frame": 30}, {"frame": 31}]
    for number, way in enumerate(ways):
        shown = {**file, "preprocess": way} if way else file
        votes.add(images=[shown], subject=f"p{number}")
    out = tmp_path / "out"

    _, manifest = export(votes, out)

    records = {each["source"]["request_id"]: each for each in records_in(out)}
    assert manifest["left_out"] == {"an image has no such frame, slice, window or recipe": 1}
    assert records["r1"]["image"] == f"{file['sha256']}.png"
    assert records["r2"]["image"] == records["r3"]["image"] != records["r1"]["image"]
    assert len({each["split"] for each in records.values()}) == 1
    pictures = {each: (out / "images" / records[each]["image"]).read_bytes() for each in records}
    assert pictures["r1"] != pictures["r2"]
    assert len(list((out / "images").iterdir())) == 2
