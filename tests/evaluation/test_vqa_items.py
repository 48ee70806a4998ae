"""Questions and answers are read as LLaVA-Med's files have them; what is odd is named."""

import json
from pathlib import Path

import pytest

from evaluation.errors import EvaluationError
from evaluation.vqa_items import read_answers, read_candidates, read_items
from tests.evaluation.vqa_files import Record, question, write_answers


def items_file(folder: Path, records: list[Record], head: bytes = b"") -> Path:
    file = folder / "test.json"
    file.write_bytes(head + json.dumps(records).encode())
    return file


@pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf", b"\r\n "])
def test_a_question_is_its_text_without_the_marker(tmp_path: Path, head: bytes):
    records = [
        question(7, "Which organ?", " Liver "),
        question("b", "Any?", "No", closed=True, image=None),
    ]
    first, second = read_items(items_file(tmp_path, records, head))
    assert (first.id, first.image, first.is_closed) == ("7", "0.png", False)
    assert (first.question, first.reference, first.kind) == ("Which organ?", "Liver", "ORGAN")
    assert (second.id, second.image, second.is_closed) == ("b", None, True)


def test_lines_of_json_do_as_well(tmp_path: Path):
    file = tmp_path / "test.jsonl"
    lines = [json.dumps(question(number, "Q?", "A")) for number in range(3)]
    file.write_text("\r\n".join(lines) + "\r\n", "utf-8")
    assert [item.id for item in read_items(file)] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer_type": "other"}, "answer_type 'other'; allowed are OPEN and CLOSED"),
        ({"image": 3}, "image"),
        ({"conversations": []}, "record 1"),
        ({"conversations": [{"from": "human", "value": "Q?"}]}, "record 1"),
        ({"id": 0}, "records 0 and 1 have the same id '0'"),
    ],
)
def test_a_record_of_another_shape_is_named(tmp_path: Path, change: Record, said: str):
    records = [question(0, "Q?", "A"), question(1, "Q?", "A") | change]
    with pytest.raises(EvaluationError, match=said):
        read_items(items_file(tmp_path, records))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_holds_no_questions_is_one_line(tmp_path: Path, content: bytes):
    file = tmp_path / "test.json"
    file.write_bytes(content)
    with pytest.raises(EvaluationError, match=r"test\.json") as failed:
        read_items(file)
    assert "\n" not in str(failed.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path):
    with pytest.raises(EvaluationError, match="No such file"):
        read_items(tmp_path / "nowhere.json")
    with pytest.raises(EvaluationError, match="No such file"):
        read_candidates(tmp_path / "nowhere.json")


def test_answers_are_known_by_id_and_a_torn_end_is_left_out(tmp_path: Path):
    file = write_answers(tmp_path / "answers.jsonl", {"1": "left", "0": "right"})
    with file.open("ab") as more:
        more.write(b'{"question_id": 3, "te')
    assert read_answers(file) == {"1": "left", "0": "right"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'}{"x": 1}\n', "line 2 is no JSON"),
        (b'{"question_id": 1}\n', "line 2 has no question_id and text"),
        (b'{"question_id": 1, "text": 5}\n', "line 2 has no question_id and text"),
        (b'{"question_id": "0", "text": "other"}\n', "question '0' is answered twice, differently"),
    ],
)
def test_a_damaged_answer_is_named(tmp_path: Path, line: bytes, said: str):
    file = write_answers(tmp_path / "answers.jsonl", {"0": "right"})
    file.write_bytes(file.read_bytes() + line + b'{"question_id": 9, "text": "x"}\n')
    with pytest.raises(EvaluationError, match=said):
        read_answers(file)


def test_candidates_may_be_numbers(tmp_path: Path):
    file = tmp_path / "candidates.json"
    file.write_text('{"0": ["liver", 3]}')
    assert read_candidates(file) == ("liver", "3")
    file.write_text('["liver"]')
    with pytest.raises(EvaluationError, match="no list of candidates"):
        read_candidates(file)
