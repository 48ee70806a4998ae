"""Each schema is recognised and counted; what is wrong is listed by kind, with its first places."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from datagen.inspect_command import app
from datagen.inspecting import Contents, inspect

MRI = {"chest_xray": False, "mri": True, "histology": False, "gross": False, "ct_scan": True}


def turns(*texts: object) -> list[dict[str, object]]:
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


ITEM = {
    "id": "1_F1",
    "image": "1_F1.jpg",
    "domain": MRI,
    "conversations": turns("What?\n<image>", "A scan.", "And?", 3),
}
VQA = {"image": "a/b.jpg", "answer_type": "OPEN", "conversations": turns("Q\n<image>", "A")}
FIGURE = {"pair_id": "1_F1", "fig_caption": "A scan.", "domain": MRI, "in_text_mention": None}
LISTED = {
    "pair_id": "1_F1",
    "pmc_tar_url": "https://x.example/PMC1.tar.gz",
    "image_file_path": "PMC1/a.jpg",
}
QUESTION = {"question_id": 1, "image": "1_F1.jpg", "text": "Q\n<image>", "type": "conversation"}
ANSWER = {"question_id": 1, "text": "A", "answer_id": "x", "model_id": "m"}
RESULT = {**FIGURE, "result": "User: Q\nAssistant: A"}
DONE = {"pair_id": "1_F1", "status": "done", "url": "https://x.example/a", "format": "JPEG"}


def written(path: Path, records: list[Any] | dict[str, Any], *, lines: bool = False) -> Path:
    text = "".join(f"{json.dumps(each)}\n" for each in records) if lines else json.dumps(records)
    path.write_text(text, "utf-8")
    return path


def of_one(tmp_path: Path, record: dict[str, Any]) -> Contents:
    return inspect(written(tmp_path / "file", [record], lines=True))


@pytest.mark.parametrize("lines", [True, False])
@pytest.mark.parametrize(
    ("record", "schema"),
    [
        (ITEM, "training items"),
        (VQA, "VQA items"),
        (FIGURE, "figures"),
        (RESULT, "figures with results"),
        (LISTED, "image list"),
        (QUESTION, "chat questions"),
        (ANSWER, "answers"),
        (DONE, "download manifest"),
    ],
)
def test_a_schema_is_recognised(tmp_path: Path, record: dict[str, Any], schema: str, lines: bool):
    contents = inspect(written(tmp_path / "file", [record], lines=lines))

    assert (contents.schema, contents.num_records) == (schema, 1)
    assert not contents.problems


def test_lists_by_domain_are_counted_by_domain(tmp_path: Path):
    plain = {"pair_id": "2_F1", "fig_caption": "A lung."}
    contents = inspect(written(tmp_path / "file", {"mri": [FIGURE], "chest_xray": [plain]}))

    assert contents.shape == "lists by name"
    assert contents.counted.domains == {"mri": 1, "ct_scan": 1, "chest_xray": 1}
    assert not contents.problems


def test_conversations_and_values_are_counted(tmp_path: Path):
    misspelt = {"id": 2, "conversatons": turns("Q", "A")}
    contents = inspect(written(tmp_path / "file", [ITEM, misspelt]))

    assert contents.counted.rounds == {2: 1, 1: 1}
    assert contents.counted.num_misspelt == 1
    assert of_one(tmp_path, QUESTION).counted.values == {"type": {"conversation": 1}}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"image": "../a.jpg"}, "image leaves its folder"),
        ({"image": "/a.jpg"}, "image leaves its folder"),
        ({"image": "a" * 5000}, "image is no name of a file"),
        ({"image": None}, "<image> without an image"),
        ({"id": None}, "no id"),
        ({"conversations": []}, "no conversation"),
        ({"conversations": turns("Q", "A")}, "not one <image> in the first question"),
        ({"conversations": turns("Q<image>")}, "a question without an answer"),
        ({"conversations": turns("Q<image>", " ")}, "an empty turn"),
        ({"conversations": turns("Q<image>", None)}, "a turn without a text"),
        ({"conversations": turns("Q<image>", "A")[::-1]}, "turns are not human and gpt in turn"),
    ],
)
def test_what_is_wrong_with_an_item(tmp_path: Path, change: dict[str, Any], problem: str):
    assert of_one(tmp_path, {**ITEM, **change}).problems == {problem: 1}


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({**VQA, "answer_type": "open"}, "answer_type is neither OPEN nor CLOSED"),
        ({**FIGURE, "fig_caption": ""}, "no fig_caption"),
        ({**FIGURE, "domain": {}}, "no domain"),
        ({**RESULT, "result": " "}, "an empty result"),
        ({**LISTED, "image_file_path": "../a"}, "image_file_path leaves its folder"),
        ({**LISTED, "pmc_tar_url": "ftp://a/b"}, "pmc_tar_url is no http or https URL"),
        ({**LISTED, "pair_id": "../a"}, "pair_id is no name of a file"),
        ({**ANSWER, "text": ""}, "an empty text"),
        ({**DONE, "status": "fine"}, "status is none of done, missing, failed"),
        ({"a": 1}, "no known schema"),
    ],
)
def test_what_is_wrong_with_others(tmp_path: Path, record: dict[str, Any], problem: str):
    assert of_one(tmp_path, record).problems == {problem: 1}


def test_mixed_broken_and_doubled_lines_are_told_with_their_places(tmp_path: Path):
    content = "\ufeff" + "\n".join(
        [json.dumps(LISTED), json.dumps(LISTED), "no", json.dumps(ANSWER), '{"pair_id": "to']
    )
    (tmp_path / "file").write_text(content, "utf-8")
    contents = inspect(tmp_path / "file")

    assert contents.first == {
        "an id for the second time": [2],
        "no JSON": [3],
        "another schema: answers": [4],
        "torn last line": [5],
    }
    assert len(contents.counted.articles) == 1


def test_the_command_says_it_in_words_and_in_json(tmp_path: Path):
    good = written(tmp_path / "good", [ITEM])
    bad = written(tmp_path / "bad", [ITEM, {**ITEM, "image": "../secret-name.jpg"}])
    runner = CliRunner()

    fine, wrong = runner.invoke(app, [str(good)]), runner.invoke(app, [str(bad)])
    told = runner.invoke(app, ["--json", str(bad)])

    assert fine.exit_code == 0
    assert "no problems" in fine.stdout
    assert wrong.exit_code == told.exit_code == 3
    assert "problem: image leaves its folder: 1 (record 2)" in wrong.stdout
    assert "secret-name" not in wrong.stdout
    assert json.loads(told.stdout)["problems"]["an id for the second time"]["first"] == [2]
