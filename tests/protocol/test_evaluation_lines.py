import io
import json
from typing import Any

import pytest

from services.protocol.batch_lines import BatchInputError, raw_lines
from services.protocol.evaluation_lines import (
    EvaluationItem,
    check_evaluation_lines,
    evaluation_spans,
    read_evaluation_line,
)


def image(name: str) -> dict[str, Any]:
    url = "data:image/png;base64,AA=="
    return {"type": "image", "name": name, "sha256": "0" * 64, "url": url}


def item(name: str, shown: str | None = None) -> dict[str, Any]:
    return {
        "type": "item", "id": name, "question": "q", "reference": "yes", "is_closed": True,
        "image": shown,
    }  # fmt: skip


def written(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def check(content: bytes) -> int:
    return check_evaluation_lines(raw_lines(io.BytesIO(content)))


def test_questions_are_counted_and_images_are_not() -> None:
    content = written(
        image("a"), item("1", "a"), item("2", "a"), image("b"), item("3", "b"), item("4")
    )

    assert check(content) == 4


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (written(image("a")), "empty_file"),
        (written(item("1"), item("1")), "duplicate_id"),
        (written(item("1", "a")), "unknown_image"),
        (written(image("a"), image("b"), item("1", "a")), "unknown_image"),
        (written(image("a"), item("1", "a"), item("2"), item("3", "a")), "unknown_image"),
        (written(image("a"), item("1", "a"), image("a")), "duplicate_image"),
        (written({**image("a"), "url": "http://elsewhere/a.png"}), "invalid_image"),
        (written({"type": "other"}), "invalid_line"),
        (written({**item("1"), "is_closed": "yes"}), "invalid_line"),
        (b"{\n", "invalid_json_line"),
    ],
)
def test_a_mistake_is_told(content: bytes, code: str) -> None:
    with pytest.raises(BatchInputError) as caught:
        check(content)

    assert caught.value.code == code


def test_spans_can_be_done_by_themselves() -> None:
    lines = [line for n in "abcdef" for line in (image(n), *(item(f"{n}{i}", n) for i in range(5)))]
    content = written(*lines, item("last"))

    found = evaluation_spans(raw_lines(io.BytesIO(content)), most_lines=7, most_bytes=1 << 20)

    assert sum(span.num_lines for span in found) == 31
    names: list[str] = []
    for span in found:
        assert span.first == len(names)
        part = content[span.start_byte : span.end_byte]
        check(part)  # no question without its image
        rows = [read_evaluation_line(raw.content, 1) for raw in raw_lines(io.BytesIO(part))]
        names += [row.id for row in rows if isinstance(row, EvaluationItem)]
    assert names == [line["id"] for line in [*lines, item("last")] if line["type"] == "item"]
    assert [span.num_lines for span in found] == [10, 10, 10, 1]


def test_the_first_spans_are_small_and_the_later_ones_full() -> None:
    content = written(*(item(str(number)) for number in range(300)))

    found = evaluation_spans(raw_lines(io.BytesIO(content)), most_lines=64, most_bytes=1 << 20)

    assert [span.num_lines for span in found] == [8, 8, 8, 12, 18, 27, 40, 60, 64, 55]
