"""`galen evaluate --write-questions`: a benchmark as a file for the page's evaluation tab."""

import hashlib
import io
from pathlib import Path

from services.protocol.batch_lines import raw_lines
from services.protocol.evaluation_lines import (
    EvaluationImage,
    EvaluationItem,
    check_evaluation_lines,
    read_evaluation_line,
)
from tests.end_to_end.launched import galen
from tests.evaluation.vqa_files import write_set


def test_questions_are_written_behind_their_images_and_nobody_is_asked(tmp_path: Path) -> None:
    data, file = write_set(tmp_path / "data"), tmp_path / "folder.test.jsonl"

    done = galen(
        "evaluate", "folder", "--data", str(data), "--write-questions", str(file),
        "--url", "http://127.0.0.1:9/v1",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "holds 20 questions of folder/test" in done.stderr
    content = file.read_bytes()
    assert check_evaluation_lines(raw_lines(io.BytesIO(content))) == 20
    lines = [read_evaluation_line(raw.content, 1) for raw in raw_lines(io.BytesIO(content))]
    images = [line for line in lines if isinstance(line, EvaluationImage)]
    assert {image.name: image.sha256 for image in images} == {
        image.name: hashlib.sha256(image.read_bytes()).hexdigest()
        for image in (data / "images").iterdir()
    }
    items = {line.id: line for line in lines if isinstance(line, EvaluationItem)}
    assert items["1"].question == "Question 1?"
    assert (items["1"].reference, items["1"].is_closed) == ("yes", True)
    assert [each.name for each in tmp_path.iterdir() if "partial" in each.name] == []


def test_an_unreadable_image_leaves_no_file(tmp_path: Path) -> None:
    data, file = write_set(tmp_path / "data"), tmp_path / "folder.test.jsonl"
    (data / "images" / "2.png").write_bytes(b"no image")

    done = galen("evaluate", "folder", "--data", str(data), "--write-questions", str(file))

    assert done.returncode == 1
    assert "'2.png' cannot be read" in done.stderr
    assert list(tmp_path.iterdir()) == [data]
