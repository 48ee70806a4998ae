"""The command as it is run: outputs, counts, exit codes, bad input, and runs that were killed."""

import hashlib
import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from datagen.errors import DataError
from datagen.postprocess.command import main
from datagen.postprocess.running import Plan, postprocess
from datagen.postprocess.standard_v1 import StandardV1
from modeling.conversations import parse_item

WORDS = [f"word{number}" for number in range(500)]


def sample(number: int, **fields) -> dict:
    draw = random.Random(number)
    blocks = [
        f"User: What about {' '.join(draw.choices(WORDS, k=8))}?\n\n"
        f"Assistant: It is {' '.join(draw.choices(WORDS, k=30))}."
        for _ in range(3)
    ]
    return {
        "pair_id": f"{number}_F1",
        "fig_caption": "A scan.",
        "domain": {"mri": True},
        "licence": "CC BY",
        "result": "\n\n".join(blocks),
        **fields,
    }


def write(path: Path, records: list) -> Path:
    lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in records]
    path.write_bytes(b"".join(line if line.endswith(b"\n") else line + b"\n" for line in lines))
    return path


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


def rejects(out: Path) -> list[dict]:
    return [json.loads(line) for line in Path(f"{out}.rejects.jsonl").read_text().splitlines()]


def manifest(out: Path) -> dict:
    return json.loads(Path(f"{out}.manifest.json").read_text())


def test_a_file_of_generate_becomes_a_file_that_training_reads(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [sample(number) for number in range(30)])

    assert run(source, "--out", tmp_path / "out.json") == 0

    items = json.loads((tmp_path / "out.json").read_text())
    assert [item["id"] for item in items] == [f"{number}_F1" for number in range(30)]
    assert all(parse_item(item).num_images == 1 for item in items)
    told = manifest(tmp_path / "out.json")
    content = (tmp_path / "out.json").read_bytes()
    assert told["output"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert told["inputs"][0]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert told["counts"]["licences"] == {"CC BY": 30}
    assert told["counts"]["domains"] == {"mri": 30}
    assert not (tmp_path / "out.json.work").exists()


def test_lines_are_written_where_the_name_says_so(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [sample(1), sample(2)])

    assert run(source, "--out", tmp_path / "out.jsonl") == 0

    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["1_F1", "2_F1"]


@pytest.mark.parametrize("shape", ["list", "lists by name"])
def test_the_seeds_shapes_are_read(tmp_path: Path, shape: str) -> None:
    samples = [sample(1, domain=None), sample(2, domain=None)]
    source = tmp_path / "in.json"
    source.write_text(json.dumps(samples if shape == "list" else {"ct_scan": samples}))

    assert run(source, "--out", tmp_path / "out.json") == 0

    named = {"ct_scan": 2} if shape == "lists by name" else {"none": 2}
    assert manifest(tmp_path / "out.json")["counts"]["domains"] == named


def test_what_is_no_sample_is_counted_listed_and_told_by_the_exit_code(tmp_path: Path) -> None:
    source = write(
        tmp_path / "in.jsonl",
        [
            b"\xef\xbb\xbf" + json.dumps(sample(1)).encode(),
            b"{broken",
            b"[1]",
            sample(2, image="../../etc/passwd"),
            sample(3, image="/etc/passwd"),
            sample(4, result=None),
            sample(5, pair_id=["no"]),
            sample(6, result="User: a" * 20_000),
            {"fig_caption": "x"},
            sample(7, result='User: What is \ud800? \n Assistant: It is half a "\ud800".'),
            {"id": 8, "image": "a.jpg", "conversations": [{"from": "x", "value": "y"}]},
            {"id": 9, "conversations": [{"from": "human", "value": "Why <image>?"}] * 2},
            sample(10),
        ],
    )
    with source.open("ab") as file:
        file.write(b'{"pair_id": "torn')

    assert run(source, "--out", tmp_path / "out.json") == 3

    items = json.loads((tmp_path / "out.json").read_text())
    assert [item["id"] for item in items] == ["1_F1", "10_F1"]
    assert [(line["number"], line["reason"]) for line in rejects(tmp_path / "out.json")] == [
        (2, "unreadable: no JSON"),
        (3, "unreadable: no object"),
        (4, "unsafe_image"),
        (5, "unsafe_image"),
        (6, "wrong_schema"),
        (7, "bad_id"),
        (8, "too_large"),
        (9, "bad_id"),
        (10, "bad_text"),
        (11, "wrong_schema"),
        (12, "wrong_schema"),
        (14, "unreadable: torn last line"),
    ]
    counts = manifest(tmp_path / "out.json")["counts"]
    assert counts["records"] == counts["written"] + sum(counts["rejected"].values())


def test_repeated_ids_are_told_apart_and_name_the_first(tmp_path: Path) -> None:
    other = sample(2, pair_id="1_F1")
    source = write(tmp_path / "in.jsonl", [sample(1), sample(1), other, sample(1, pair_id="x")])

    assert run(source, "--out", tmp_path / "out.json") == 0

    found = [
        (line["id"], line["reason"], line["repeats"]) for line in rejects(tmp_path / "out.json")
    ]
    assert found == [
        ("1_F1", "repeated_item", "1_F1"),
        ("1_F1", "duplicate_id", "1_F1"),
        ("x", "near_duplicate", "1_F1"),
    ]
    assert manifest(tmp_path / "out.json")["counts"]["written"] == 1


def test_near_duplicates_may_stay(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [sample(1), sample(1, pair_id="x")])

    assert run(source, "--out", tmp_path / "out.json", "--no-near-duplicates") == 0

    assert manifest(tmp_path / "out.json")["counts"]["written"] == 2


def test_a_turn_that_is_dropped_is_listed_with_its_number_and_without_its_text(
    tmp_path: Path,
) -> None:
    talk = "User: Who?\nAssistant: Mr. Canary has it.\nUser: Where?\nAssistant: On the left."
    source = write(tmp_path / "in.jsonl", [sample(1, result=talk)])

    assert run(source, "--out", tmp_path / "out.json") == 0

    assert rejects(tmp_path / "out.json") == [
        {"file": "in.jsonl", "number": 1, "reason": "identifier", "id": "1_F1", "turn": 0}
    ]
    written = [file.read_text() for file in tmp_path.glob("out.json*")]
    assert not any("Canary" in text for text in written)


def test_the_legacy_profile_is_the_seeds(tmp_path: Path) -> None:
    talk = "User: a?\nAssistant: According to the caption, an MRI.\nUser: b?\nAssistant: Sorry."
    source = write(tmp_path / "in.jsonl", [sample(1, result=talk), sample(1, result=talk)])

    assert run(source, "--out", tmp_path / "out.json", "--profile", "legacy-v1") == 0

    items = json.loads((tmp_path / "out.json").read_text())
    assert [item["conversations"][1]["value"] for item in items] == ["An mri."] * 2
    assert manifest(tmp_path / "out.json")["profile"] == "legacy-v1"


def test_mistakes_of_the_user_have_exit_codes_of_their_own(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [sample(1)])
    out = tmp_path / "out.json"
    (tmp_path / "empty").touch()

    assert run(source, "--out", source) == 1
    assert run(tmp_path / "none.jsonl", "--out", out) == 1
    assert run(tmp_path / "empty", "--out", out) == 1
    assert run(source, "--out", tmp_path / "no" / "out.json") == 1
    assert run(source, "--out", out, "--images", tmp_path / "none") == 1
    assert run(source, "--out", out, "--profile", "legacy-v1", "--images", tmp_path) == 2
    assert run(source, "--out", out, "--profile", "other") == 2
    assert run(source, "--out", out) == 0
    assert run(source, "--out", out) == 1
    assert run(source, "--out", out, "--force") == 0


class StopError(Exception):
    """Ends a run as Ctrl-C does, at a chosen place."""


class StoppingWatch:
    """A watch that stops the run at its n-th call."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def begin(self, _name: str, _total: int | None, /) -> None:
        self.advance()

    def advance(self, _count: int = 1, /) -> None:
        self.left -= 1
        if self.left == 0:
            raise StopError


def test_a_run_that_was_stopped_anywhere_gives_the_same_bytes_when_it_is_started_again(
    tmp_path: Path,
) -> None:
    records = [sample(number % 40) for number in range(60)]
    source = write(tmp_path / "in.jsonl", records)
    assert run(source, "--out", tmp_path / "whole.json") == 0
    out = tmp_path / "out.json"

    def once(calls: int) -> None:
        postprocess(
            Plan([source], out, StandardV1(0), has_unique_ids=True, likeness=0.85),
            StoppingWatch(calls),
        )

    for calls in range(1, 20):
        with pytest.raises(StopError):
            once(calls)
        assert not out.exists()
    once(1000)

    assert out.read_bytes() == (tmp_path / "whole.json").read_bytes()


@pytest.mark.parametrize("until", ["out.json.work/files/items", "out.json.work/files/output"])
def test_a_run_that_was_killed_is_started_again(tmp_path: Path, until: str) -> None:
    source = write(tmp_path / "in.jsonl", [sample(number) for number in range(3000)])
    assert run(source, "--out", tmp_path / "whole.json") == 0
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "datagen.postprocess.command", str(source), "--out", str(out)]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while killed.poll() is None:
        if (tmp_path / until).exists():
            killed.send_signal(signal.SIGKILL)
            killed.wait()
    out.unlink(missing_ok=True)  # it was faster than we

    assert run(source, "--out", out) == 0

    for suffix in ("", ".rejects.jsonl"):
        assert (
            Path(f"{out}{suffix}").read_bytes()
            == Path(f"{tmp_path / 'whole.json'}{suffix}").read_bytes()
        )
    assert not (tmp_path / "out.json.work").exists()


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", [sample(1)])
    (tmp_path / "out.json.work").mkdir()
    (tmp_path / "out.json.work" / "mine").write_text("precious")
    plan = Plan([source], tmp_path / "out.json", StandardV1(0), has_unique_ids=True, likeness=None)

    with pytest.raises(DataError, match="not this tool's"):
        postprocess(plan, StoppingWatch(1000))

    assert (tmp_path / "out.json.work" / "mine").read_text() == "precious"


def test_bytes_of_any_kind_end_no_run(tmp_path: Path) -> None:
    draw = random.Random(5)
    good = [json.dumps(sample(number)).encode() for number in range(40)]
    for line in range(40):
        broken = bytearray(good[line])
        for _ in range(draw.randrange(6)):
            broken[draw.randrange(1, len(broken))] = draw.randrange(256)
        good[line] = bytes(broken)
    source = write(tmp_path / "in.jsonl", good)

    assert run(source, "--out", tmp_path / "out.json") in (0, 3)

    for item in json.loads((tmp_path / "out.json").read_text()):
        assert parse_item(item).num_images == 1
