"""Question files: found by name, cut with their images, refused with the line at fault."""

import io
from pathlib import Path

import msgspec
import pytest

from services.protocol.batch_lines import BatchInputError, raw_lines
from services.protocol.evaluation_lines import (
    EvaluationImage,
    EvaluationItem,
    EvaluationLine,
    check_evaluation_lines,
    read_evaluation_line,
)
from services.ui.benchmark_files import (
    benchmark_name,
    benchmarks_in,
    count_questions,
    cut,
    drawn_scans,
)

A, B, C = (EvaluationImage(name, "0" * 64, "data:image/png;base64,AA==") for name in "abc")


def item(question_id: str, image: str | None = None) -> EvaluationItem:
    return EvaluationItem(question_id, "q", "yes", is_closed=True, image=image)


def file_of(*lines: EvaluationLine) -> io.BytesIO:
    return io.BytesIO(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))


def lines_in(content: bytes) -> list[EvaluationLine]:
    raws = raw_lines(io.BytesIO(content))
    return [read_evaluation_line(raw.content, raw.number) for raw in raws]


LINES = (A, item("1", "a"), item("2", "a"), B, item("3", "b"), item("4"), C, item("5", "c"))


@pytest.mark.parametrize(
    ("most", "kept"),
    [(1, LINES[:2]), (2, LINES[:3]), (3, LINES[:5]), (4, LINES[:6]), (5, LINES), (9, LINES)],
)
def test_a_cut_keeps_the_first_questions_and_their_images_only(
    most: int, kept: tuple[EvaluationLine, ...]
) -> None:
    found = cut(file_of(*LINES), most)

    assert lines_in(found.content) == list(kept)
    assert (found.num, found.num_in_file) == (min(most, 5), 5)
    assert check_evaluation_lines(raw_lines(io.BytesIO(found.content))) == found.num


def test_all_are_kept_without_a_limit() -> None:
    file = file_of(*LINES)

    assert cut(file, None).content == file.getvalue()


def test_a_file_is_refused_with_its_line_also_behind_the_cut() -> None:
    file = file_of(A, item("1", "a"), item("2", "b"))

    with pytest.raises(BatchInputError, match="line 3 is about an image") as caught:
        cut(file, 1)
    assert caught.value.line == 3


def test_the_drawn_scans_are_questions_about_five_images() -> None:
    found = lines_in(drawn_scans().read())

    images = [line for line in found if isinstance(line, EvaluationImage)]
    items = [line for line in found if isinstance(line, EvaluationItem)]
    assert len(images) == len({image.sha256 for image in images}) == 5
    assert images[0].name == "ct.png"
    assert count_questions(drawn_scans()) == len(items) == 32
    assert {line.reference for line in items if line.is_closed} == {"yes", "no"}
    assert not {line.reference for line in items if not line.is_closed} & {"yes", "no"}


def test_a_folder_gives_its_question_files_by_benchmark(tmp_path: Path) -> None:
    for name in ("vqa-rad.test.jsonl", "mine.jsonl", "notes.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "folder.jsonl").mkdir()

    assert benchmarks_in(tmp_path) == {
        "mine": tmp_path / "mine.jsonl",
        "vqa-rad/test": tmp_path / "vqa-rad.test.jsonl",
    }
    assert benchmarks_in(tmp_path / "none") == benchmarks_in(None) == {}


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("slake.val.jsonl", "slake/val"),
        ("/tmp/a/phantoms.test.jsonl", "phantoms/test"),
        ("v1.2.all.jsonl", "v1.2/all"),
        ("mine.jsonl", "mine"),
        (".test.jsonl", ".test"),
        ("mine..jsonl", "mine."),
    ],
)
def test_a_file_is_named_as_galen_evaluate_names_its_benchmark(file: str, name: str) -> None:
    assert benchmark_name(file) == name
