import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder
from openai.types.chat import ChatCompletionChunk

from services.gateway.chunks import Usage
from services.gateway.error_handlers import error_answer
from services.gateway.sse import DONE, PING, SseFormatter, error_event
from services.protocol.errors import ErrorCode, WorkerError
from services.protocol.messages import TokenLogprob, Tokens
from tests.golden_files import GoldenFiles

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
FRAMING = st.sampled_from(
    [
        "\n\n",
        "\r\n",
        "\r",
        "data: [DONE]",
        "\n\ndata: x",
        "\u2028",
        "\u2029",
        "\x85",
        "\0",
        '"',
        "\\",
    ]
)


def formatter(*, include_usage: bool = False) -> SseFormatter:
    return SseFormatter("chatcmpl-1", "tiny", 1_700_000_000, include_usage=include_usage)


def tokens(*texts: str, logprobs: list[TokenLogprob] | None = None) -> Tokens:
    return Tokens("chatcmpl-1", 1, 0, list(range(len(texts))), list(texts), logprobs)


def in_pieces(blob: bytes, sizes: list[int]) -> Iterator[bytes]:
    """The bytes as a network might deliver them."""
    for size in sizes:
        yield blob[:size]
        blob = blob[size:]
    yield blob


def decoded(blob: bytes, sizes: list[int] | None = None) -> list[str]:
    """What OpenAI's own client reads."""
    return [event.data for event in SSEDecoder().iter_bytes(in_pieces(blob, sizes or []))]


@given(
    texts=st.lists(TEXTS | FRAMING, min_size=1, max_size=8),
    sizes=st.lists(st.integers(1, 40), max_size=40),
    include_usage=st.booleans(),
)
def test_any_text_in_any_pieces_arrives_unchanged_as_one_event_per_token(
    texts: list[str], sizes: list[int], include_usage: bool
) -> None:
    blob = formatter(include_usage=include_usage).tokens(2, tokens(*texts)) + DONE

    *chunks, done = decoded(blob, sizes)

    assert done == "[DONE]"
    read = [ChatCompletionChunk.model_validate_json(chunk) for chunk in chunks]
    assert [chunk.choices[0].delta.content for chunk in read] == texts
    assert {chunk.choices[0].index for chunk in read} == {2}


@given(text=TEXTS | FRAMING)
def test_event_is_one_line_whatever_its_text(text: str) -> None:
    event = formatter().tokens(0, tokens(text))

    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    assert len(event[:-2].splitlines()) == 1


@given(texts=st.lists(TEXTS, min_size=1, max_size=5))
def test_tokens_with_logprobs_have_the_same_text_and_their_numbers(texts: list[str]) -> None:
    entries = [TokenLogprob(i, t, -0.25 * i, ((i, t, -0.25 * i),)) for i, t in enumerate(texts)]
    blob = formatter().tokens(0, tokens(*texts, logprobs=entries))

    read = [ChatCompletionChunk.model_validate_json(chunk) for chunk in decoded(blob)]

    assert [chunk.choices[0].delta.content for chunk in read] == texts
    for chunk, entry in zip(read, entries, strict=True):
        logprobs = chunk.choices[0].logprobs
        assert logprobs is not None
        assert logprobs.content is not None
        assert [(c.token, c.logprob) for c in logprobs.content] == [(entry.token, entry.logprob)]


@pytest.mark.parametrize("include_usage", [False, True])
def test_usage_is_null_in_every_chunk_but_the_last_or_absent(include_usage: bool) -> None:
    stream = formatter(include_usage=include_usage)
    blob = stream.begin(0) + stream.tokens(0, tokens("a")) + stream.finish(0, "stop")

    chunks = [json.loads(chunk) for chunk in decoded(blob)]

    assert [chunk.get("usage", "absent") for chunk in chunks] == [
        None if include_usage else "absent"
    ] * 3
    (last,) = (json.loads(chunk) for chunk in decoded(stream.usage(Usage(1, 2, 3))))
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def test_comment_is_no_event() -> None:
    assert decoded(PING + formatter().tokens(0, tokens("a")) + PING)[0].count('"a"') == 1


def test_transcript_of_a_stream(golden: GoldenFiles) -> None:
    stream = formatter(include_usage=True)
    logprob = TokenLogprob(5, " a", -0.5, ((5, " a", -0.5), (6, "\n", -1.25)))
    error = WorkerError(ErrorCode.WORKER_LOST, "the worker was lost")
    parts = [
        stream.begin(0),
        stream.tokens(0, tokens("Hel", "", 'lo "é\U0001f9ea"\n')),
        PING,
        stream.begin(1),
        stream.tokens(1, tokens(" a", logprobs=[logprob])),
        stream.finish(1, "length"),
        stream.finish(0, "stop"),
        stream.usage(Usage(12, 4, 16)),
        DONE,
        error_event(error_answer(error)),
        DONE,
    ]

    golden.check("sse_transcript.txt", b"".join(parts).decode())


@given(text=TEXTS | FRAMING)
def test_no_text_makes_a_line_for_clients_that_split_as_unicode_does(text: str) -> None:
    logprob = TokenLogprob(1, text, -0.5, ((1, text, -0.5),))
    for event in (tokens(text), tokens(text, logprobs=[logprob])):
        blob = formatter().tokens(0, event)
        assert len(blob.decode().splitlines()) == blob.count(b"\n")
