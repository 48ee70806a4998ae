"""The load generator sees every token, and says so when one is missing."""

from pathlib import Path

import pytest

from benchmarks.native_build import LoadErrors, run_loadgen
from tests.benchmarks.conftest import serve_reply, sse_reply

EIGHT = list(range(8))


@pytest.mark.parametrize("stream", [(), ("--stream",)], ids=["whole", "streamed"])
def test_every_token_of_the_mock_engine_arrives(
    programs: Path, mock_engine_port: int, stream: tuple[str, ...]
) -> None:
    load = run_loadgen(programs, mock_engine_port, ("-c", "4", "-n", "40", *stream))

    assert load.err == LoadErrors()
    assert (load.req_all, load.tok_all, load.multi) == (40, 40 * 64, 0)


def test_the_prompt_steers_the_mock_engine(programs: Path, mock_engine_port: int) -> None:
    args = ("-n", "1", "--stream", "--tokens", "5", "--ttft", "40", "--itl", "10")
    load = run_loadgen(programs, mock_engine_port, args)

    assert load.tok_all == 5
    assert load.ttft_ms.p50 >= 40
    assert load.total_ms.p50 >= 80


def test_a_time_window_counts_requests_and_tokens_in_it(
    programs: Path, mock_engine_port: int
) -> None:
    load = run_loadgen(programs, mock_engine_port, ("-c", "2", "-d", "0.2", "--warm", "0.05"))

    assert load.err == LoadErrors()
    assert 0 < load.reqs <= load.req_all


def test_a_body_with_a_salt_is_another_body_in_every_request(
    programs: Path, mock_engine_port: int, tmp_path: Path
) -> None:
    body = tmp_path / "body.json"
    body.write_text('{"max_tokens": 3, "image": "' + "A" * 1_000_000 + 'n=10"}')
    args = ("-c", "4", "-n", "20", "--body", body, "--tokens", "3", "--salt", "n=10")
    load = run_loadgen(programs, mock_engine_port, args)

    assert (load.req_all, load.err) == (20, LoadErrors())


@pytest.mark.parametrize(
    ("tokens", "is_done", "expected"),
    [
        (EIGHT, True, LoadErrors()),
        ([0, 1, 2, 4, 5, 6, 7], True, LoadErrors(tok=1)),
        ([0, 1, 2, 2, 3, 4, 5, 6, 7], True, LoadErrors(tok=1)),
        ([0, 1, 3, 2, 4, 5, 6, 7], True, LoadErrors(tok=1)),
        ([0, 1, 2, 3, 4, 5, 6], True, LoadErrors(trunc=1)),
        (EIGHT, False, LoadErrors(done=1)),
    ],
    ids=["intact", "lost", "doubled", "reordered", "cut short", "no DONE"],
)
def test_a_tampered_stream_is_counted_by_kind(
    programs: Path, tokens: list[int], is_done: bool, expected: LoadErrors
) -> None:
    with serve_reply(sse_reply(tokens, is_done=is_done)) as port:
        load = run_loadgen(programs, port, ("-n", "1", "--stream", "--tokens", "8"))

    assert load.err == expected
    assert load.reqs == (1 if expected == LoadErrors() else 0)


def test_events_with_several_tokens_are_counted(programs: Path) -> None:
    two_in_one = sse_reply(EIGHT).replace(b"zq0003 ", b"zq0003 zq0004 ")
    two_in_one = two_in_one.replace(b'data: {"choices":[{"delta":{"content":"zq0004 "}}]}\n\n', b"")
    with serve_reply(two_in_one) as port:
        load = run_loadgen(programs, port, ("-n", "1", "--stream", "--tokens", "8"))

    assert (load.err, load.multi) == (LoadErrors(), 1)


def test_an_error_in_the_stream_is_kept_as_a_sample(programs: Path) -> None:
    reply = sse_reply([0, 1]) + b'data: {"error": {"code": "worker_lost"}}\n\n'
    with serve_reply(reply) as port:
        load = run_loadgen(programs, port, ("-n", "1", "--stream", "--tokens", "8"))

    assert load.err == LoadErrors(trunc=1)
    assert "worker_lost" in load.errsample


def test_a_refusal_is_an_http_error_with_a_sample(programs: Path) -> None:
    refusal = b"HTTP/1.1 429 Too Many\r\ncontent-length: 8\r\n\r\nslow bit"
    with serve_reply(refusal) as port:
        load = run_loadgen(programs, port, ("-n", "1"))

    assert (load.err, load.errsample) == (LoadErrors(http=1), "429 slow bit")
