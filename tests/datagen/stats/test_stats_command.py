"""`galen datagen stats`: what it writes, what it counts, exit codes."""

import json
from pathlib import Path

import pytest
from PIL import Image

from datagen.postprocess import command as post_process
from tests.datagen.stats.conversations import item, run, write_images, write_items


def postprocess(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        post_process.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


DRAWINGS = ("sunburst-instructions", "sunburst-answers", "domains", "turns", "lengths")


def items(number: int = 6) -> list[dict[str, object]]:
    return [
        item(
            index,
            "<image>\nDescribe the lesion.",
            "The image shows a mass.",
            "Where is it?",
            "Left lung.",
            domain="mri" if index % 2 else "ct_scan",
        )
        for index in range(number)
    ]


def numbers(out: Path) -> dict[str, object]:
    return json.loads((out / "stats.json").read_text("utf-8"))


def test_it_writes_a_page_drawings_and_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write_items(tmp_path / "x.json", items()), tmp_path / "out"
    images = write_images(tmp_path / "images", 6)
    assert run(file, "--out", out, "--images", images) == 0
    assert capsys.readouterr().out == f"{out / 'stats.html'}: 6 conversations\n"
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["stats.html", "stats.json", *(f"{name}.png" for name in DRAWINGS)]
    )
    for name in DRAWINGS:
        with Image.open(out / f"{name}.png") as drawing:
            colours = drawing.convert("RGB").getcolors(1 << 20)
        assert colours is not None
        assert len(colours) > 50
    page = (out / "stats.html").read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") == 6
    assert "Describe the lesion." in page
    assert "MRI (3)" in page


def test_the_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    file, out = write_items(tmp_path / "x.json", items()), tmp_path / "out"
    assert run(file, "--out", out) == 0
    found = numbers(out)
    assert found["conversations"] == 6
    assert found["domains"] == {
        "chest_xray": 0, "mri": 3, "histology": 0, "gross": 0, "ct_scan": 3, "none named": 0,
    }  # fmt: skip
    assert found["rounds"]["counts"] == {"2": 6}  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType] - JSON
    roots = found["roots"]
    assert isinstance(roots, dict)
    assert roots["instructions"]["verbs"] == [
        {"verb": "be", "number": 6, "nouns": {}},
        {"verb": "describe", "number": 6, "nouns": {"lesion": 6}},
    ]
    assert roots["answers"]["verbs"] == [{"verb": "show", "number": 6, "nouns": {"mass": 6}}]
    assert roots["answers"]["without_verb"] == 6


def test_generated_results_are_counted_by_their_blocks(tmp_path: Path) -> None:
    file, out = tmp_path / "x.jsonl", tmp_path / "out"
    result = (
        "User: What organ is shown?\nAssistant: The liver.\n\nUser: Is it large?\nAssistant: No"
    )
    records = [{"pair_id": "a", "result": result}, {"pair_id": "b", "result": "sorry"}]
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")
    assert run(file, "--out", out) == 3
    found = numbers(out)
    assert found["conversations"] == 1
    assert found["problems"] == {"result has no User: and Assistant: blocks": 1}
    assert found["rounds"]["counts"] == {"2": 1}  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType] - JSON


def test_what_a_teacher_wrote_is_read_as_post_processing_reads_it(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [
        {"pair_id": "a", "turns": [{"question": "What is shown?", "answer": "The liver."}]},
        {"pair_id": "b", "turns": [], "result": "**User** : What?\n**Assistant**: A mass."},
        {"pair_id": "c", "turns": [{"question": "What?", "answer": 5}]},
        {"pair_id": "d", "turns": "no"},
        {"pair_id": "e", "conversations": None, "result": "User: What?\nAssistant: A lung."},
    ]
    file, out = tmp_path / "x.jsonl", tmp_path / "out"
    file.write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")
    assert run(file, "--out", out) == 3
    found = numbers(out)
    assert found["conversations"] == 3
    assert found["problems"] == {
        "turns that cannot be read": 1, "no conversations, no turns and no result": 1,
    }  # fmt: skip
    assert found["rounds"]["counts"] == {"1": 3}  # pyright: ignore[reportIndexIssue, reportCallIssue, reportArgumentType] - JSON
    assert postprocess(file, "--out", tmp_path / "train.jsonl") == 3
    written = (tmp_path / "train.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["id"] for line in written] == ["a", "b", "e"]


def test_records_that_cannot_be_read_are_told_and_end_with_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "x.jsonl", tmp_path / "out"
    lines = [json.dumps(items(1)[0]), "{broken", json.dumps({"id": "n", "conversations": "no"})]
    file.write_text("\n".join([*lines, ""]), "utf-8")
    assert run(file, "--out", out) == 3
    err = capsys.readouterr().err
    assert "1 left out: no JSON" in err
    assert "1 left out: turns that cannot be read" in err
    assert "Incomplete:" in (out / "stats.html").read_text("utf-8")


def test_the_misspelt_key_is_read(tmp_path: Path) -> None:
    record = items(1)[0]
    record["conversatons"] = record.pop("conversations")
    assert run(write_items(tmp_path / "x.json", [record]), "--out", tmp_path / "out") == 0


def test_missing_and_unsafe_images_are_counted(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 1)
    (images / "i1.png").write_bytes(b"no image")
    (images / "i2.png").symlink_to("/etc/hostname")
    records = items(5)
    records[3]["image"] = "../x.png"
    out = tmp_path / "out"
    assert run(write_items(tmp_path / "x.json", records), "--out", out, "--images", images) == 0
    assert numbers(out)["sample_images_missing"] == 4
    page = (out / "stats.html").read_text("utf-8")
    for why in ("cannot be read as an image", "no file in the folder", "no such file", "its name"):
        assert why in page


def test_samples_are_drawn_by_the_seed(tmp_path: Path) -> None:
    file = write_items(tmp_path / "x.json", items(60))
    pages: list[str] = []
    for seed in ("1", "1", "2"):
        assert run(file, "--out", tmp_path / "out", "--samples", "5", "--seed", seed) == 0
        pages.append((tmp_path / "out" / "stats.html").read_text("utf-8"))
    assert pages[0] == pages[1] != pages[2]
    assert pages[0].count('<section class="item') == 5


def test_a_limit_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = write_items(tmp_path / "x.json", items(9))
    assert run(file, "--out", out, "--limit", "4") == 0
    assert numbers(out)["conversations"] == 4
    assert "Only the first 4 records" in (out / "stats.html").read_text("utf-8")


def test_a_folder_of_somebody_else_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "turns.png").write_bytes(b"mine")
    assert run(write_items(tmp_path / "x.json", items(1)), "--out", out) == 1
    assert "somebody else" in capsys.readouterr().err
    assert (out / "turns.png").read_bytes() == b"mine"


@pytest.mark.parametrize("content", ["", "[]", "[1]", '[{"id": "x"}]'])
def test_nothing_is_made_of_nothing(content: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(content, "utf-8")
    assert run(file, "--out", tmp_path / "out") == 1
    assert not (tmp_path / "out").exists()


def test_misuse_ends_with_2(tmp_path: Path) -> None:
    assert run(tmp_path / "x.json") == 2
    assert run(tmp_path / "x.json", "--out", tmp_path, "--images", tmp_path / "none") == 2


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert "galen datagen stats instruct.json" in capsys.readouterr().out
