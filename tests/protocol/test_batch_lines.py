import contextlib
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.protocol.batch_lines import (
    BatchInputError,
    check_lines,
    raw_lines,
    read_line,
    spans,
)
from services.protocol.jobs import MAX_LINE_BYTES, MAX_LINES, broker_address
from tests.support.batches import input_of, line_of

CANARY = "Patient Meier, Zurich"


def check(content: bytes) -> Any:
    return check_lines(raw_lines(io.BytesIO(content)))


def written(*lines: object) -> bytes:
    return b"\n".join(json.dumps(line).encode() for line in lines)


def test_a_good_file_is_described() -> None:
    found = check(input_of(3))

    assert (found.num_lines, found.model, found.endpoint) == (3, "fake", "/v1/chat/completions")


def test_byte_order_mark_carriage_returns_and_empty_lines_are_taken() -> None:
    content = b"\xef\xbb\xbf" + input_of(3).replace(b"\n", b"\r\n\r\n")

    assert check(content).num_lines == 3


def test_a_last_line_without_a_break_counts() -> None:
    assert check(input_of(2).rstrip(b"\n")).num_lines == 2


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"", "empty_file", None),
        (b"\n \n\r\n", "empty_file", None),
        (input_of(2)[:-9], "invalid_json_line", 2),
        (input_of(1) + b"\x00" * 40, "invalid_json_line", 2),
        ("{\"custom_id\": \"\u00e4\"}".encode("latin-1"), "invalid_json_line", 1),
        (b"{" * 5000, "invalid_json_line", 1),
        (b"[1]", "invalid_line", 1),
        (b'{"a": 1}', "invalid_line", 1),
        (written(line_of(0), line_of(0)), "duplicate_custom_id", 2),
        (written({**line_of(0), "custom_id": ""}), "invalid_custom_id", 1),
        (written({**line_of(0), "custom_id": "x" * 513}), "invalid_custom_id", 1),
        (written({**line_of(0), "custom_id": 7}), "invalid_line", 1),
        (written({**line_of(0), "method": "GET"}), "invalid_method", 1),
        (written({**line_of(0), "url": "/v1/embeddings"}), "invalid_url", 1),
        (written({**line_of(0), "body": []}), "invalid_line", 1),
        (written({**line_of(0), "body": {"messages": []}}), "invalid_line", 1),
        (written({**line_of(0), "more": 1}), "invalid_line", 1),
        (written(line_of(0), line_of(1, "other")), "mismatched_model", 2),
        (
            written({**line_of(0), "body": {**line_of(0)["body"], "stream": True}}),
            "unsupported_parameter",
            1,
        ),
        (b'{"custom_id": "' + b"x" * MAX_LINE_BYTES + b'"}', "line_too_long", 1),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(content: bytes, code: str, line: int | None) -> None:
    with pytest.raises(BatchInputError) as caught:
        check(content)

    assert (caught.value.code, caught.value.line) == (code, line)
    assert line is None or f"line {line}" in caught.value.message


def test_one_line_too_many_is_refused() -> None:
    small = (
        b'{"custom_id":"%d","method":"POST","url":"/v1/chat/completions","body":{"model":"m"}}\n'
    )
    content = b"".join(small % number for number in range(MAX_LINES + 1))

    with pytest.raises(BatchInputError) as caught:
        check(content)
    assert caught.value.code == "too_many_lines"
    assert check(content[: content.rstrip().rfind(b"\n") + 1]).num_lines == MAX_LINES


def test_no_text_of_a_prompt_is_quoted() -> None:
    body = {"model": "m", "messages": CANARY, "stream": CANARY}
    content = written({**line_of(0), "body": body})

    with pytest.raises(BatchInputError) as caught:
        check(content)
    assert CANARY not in caught.value.message


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=60),
    st.integers(1, 20),
    st.integers(50, 2000),
    st.booleans(),
)
def test_spans_cover_every_line_once_in_order(
    lengths: list[int], most_lines: int, most_bytes: int, has_blanks: bool
) -> None:
    rows = [b"x" * length for length in lengths]
    content = (b"\n\n" if has_blanks else b"\n").join(rows)

    found = spans(raw_lines(io.BytesIO(content)), most_lines=most_lines, most_bytes=most_bytes)

    read: list[bytes] = []
    for span in found:
        assert span.first == len(read)
        part = io.BytesIO(content[span.start_byte : span.end_byte])
        read += [raw.content for raw in raw_lines(part, start_byte=span.start_byte)]
        assert len(read) - span.first == span.num_lines <= most_lines
        assert span.num_lines == 1 or span.end_byte - span.start_byte <= most_bytes
    assert read == rows


@given(st.binary(max_size=200))
def test_any_bytes_are_a_line_or_a_mistake(content: bytes) -> None:
    with contextlib.suppress(BatchInputError):
        read_line(content, 1)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://host:1/2", "redis://host:1/2"),
        ("unix:///a/b.sock", "redis+socket:///a/b.sock?virtual_host=0"),
        ("unix:///a%20b/r.sock?db=3", "redis+socket:///a b/r.sock?virtual_host=3"),
        ("unix://:p%40ss@/r.sock", "redis+socket://:p%40ss@/r.sock?virtual_host=0"),
    ],
)
def test_celery_finds_the_same_redis(url: str, address: str) -> None:
    assert broker_address(url) == address
