"""OpenAI's client drives files and batches, unmodified; wrong inputs are told apart."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from services.store.settings import StoreSettings
from tests.support.batches import (
    answer_to,
    check_complete,
    ended_batch,
    input_of,
    line_of,
    lines_of,
    start_batch,
)  # fmt: skip
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

CANARY = "Patient Meier, Zurich"
REFUSED = (403, "permission_error", "local_only")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    async with Stack(tmp_path_factory.mktemp("batches"), num_workers=1) as stack:
        stack.add_jobs("jobs", GALEN_JOBS_SHARD_LINES="20")
        yield stack


@pytest_asyncio.fixture(loop_scope="module")
async def sdk(platform: Stack) -> AsyncIterator[AsyncOpenAI]:
    url = f"http://127.0.0.1:{platform.port}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def store_of(platform: Stack) -> Path:
    return Path(StoreSettings(dir=platform.folder / "store").files)


async def upload(sdk: AsyncOpenAI, content: bytes, purpose: Any = "batch") -> Any:
    return await sdk.files.create(file=("in.jsonl", content), purpose=purpose)


# ------------------------------------------------------------------------------------- files


async def test_a_file_is_described_listed_read_and_removed(sdk: AsyncOpenAI) -> None:
    content = input_of(5)
    file = await upload(sdk, content)

    assert (file.bytes, file.filename, file.purpose) == (len(content), "in.jsonl", "batch")
    assert await sdk.files.retrieve(file.id) == file
    assert (await sdk.files.content(file.id)).content == content
    assert file.id in [each.id async for each in sdk.files.list(purpose="batch", limit=2)]

    assert (await sdk.files.delete(file.id)).deleted
    for gone in (sdk.files.retrieve, sdk.files.content, sdk.files.delete):
        with pytest.raises(openai.NotFoundError):
            await gone(file.id)


async def test_pages_of_files_meet_each_once(sdk: AsyncOpenAI) -> None:
    made = [(await upload(sdk, input_of(1))).id for _ in range(5)]

    newest = [each.id async for each in sdk.files.list(limit=2)][:5]
    oldest = [each.id async for each in sdk.files.list(limit=2, order="asc")][-5:]

    assert newest == made[::-1]
    assert oldest == made


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no line"),
        (input_of(2)[:-9], "line 2 is no JSON"),
        (b"\x00" * 100, "line 1 is no JSON"),
        (b"\n".join(json.dumps(line_of(0)).encode() for _ in "ab"), "stands in line 1, too"),
        (json.dumps({"custom_id": "1"}).encode(), "missing required field"),
        (input_of(1) + json.dumps(line_of(1, "other")).encode(), "a batch has one model"),
    ],
)
async def test_a_wrong_input_is_refused_with_its_line(
    sdk: AsyncOpenAI, content: bytes, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await upload(sdk, content)

    assert caught.value.code == "invalid_file"
    assert words in caught.value.message


@pytest.mark.parametrize("purpose", ["fine-tune", "assistants", "", "batch_output"])
async def test_an_unknown_purpose_is_refused(sdk: AsyncOpenAI, purpose: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await upload(sdk, input_of(1), purpose)

    assert caught.value.param == "purpose"


async def test_forms_that_are_none_are_refused(platform: Stack) -> None:
    url = f"http://127.0.0.1:{platform.port}/v1/files"
    form = {"content-type": "multipart/form-data; boundary=x"}
    async with httpx.AsyncClient() as client:
        answers = [
            await client.post(url, json={"purpose": "batch"}),
            await client.post(url, content=b"--x\r\nnonsense", headers=form),
            await client.post(url, content=b"", headers={"content-type": "multipart/form-data"}),
            await client.post(url, data={"purpose": "batch"}, files={"other": b"x"}),
            await client.post(url, files={"file": b"x"}),
            await client.post(url, files={"file": b"x"}, data={"purpose": "batch", "n": "1"}),
            await client.post(url, files=[("file", b"x"), ("file", b"y")], data={"purpose": "a"}),
        ]

    assert [answer.status_code for answer in answers] == [415, 400, 400, 400, 400, 400, 400]
    assert all(answer.json()["error"]["type"] == "invalid_request_error" for answer in answers)


async def test_a_file_beyond_200_mb_is_refused_before_it_has_come(platform: Stack) -> None:
    url = f"http://127.0.0.1:{platform.port}/v1/files"
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(400):
            sent += 1
            yield b"y" * 10**6

    kind = "multipart/form-data; boundary=x"
    head = f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", platform.port)
    writer.write(f"{head}Content-Length: 400000000\r\n\r\n".encode())
    early = await reader.readuntil(b"}}")
    writer.close()
    async with httpx.AsyncClient(timeout=60) as client:
        try:
            late = await client.post(url, content=body(), headers={"content-type": kind})
        except httpx.TransportError:  # it may have closed before we had sent all
            late = None

    assert (early.split()[1], b'"request_too_large"' in early) == (b"413", True)
    assert late is None or late.status_code == 413
    assert sent < 400


async def test_a_file_in_use_stays(sdk: AsyncOpenAI) -> None:
    file = await upload(sdk, input_of(200, delay_ms=50))
    batch = await sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )

    with pytest.raises(openai.ConflictError) as caught:
        await sdk.files.delete(file.id)
    await sdk.batches.cancel(batch.id)
    await ended_batch(sdk, batch.id, 30)

    assert caught.value.code == "file_in_use"
    assert (await sdk.files.delete(file.id)).deleted


# ----------------------------------------------------------------------------------- batches


async def test_a_batch_runs_to_its_end(sdk: AsyncOpenAI) -> None:
    file = await upload(sdk, input_of(90))
    batch = await sdk.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"study": "a"},
    )
    assert (batch.status, batch.input_file_id) == ("validating", file.id)
    assert batch.expires_at == batch.created_at + 86_400

    batch = await ended_batch(sdk, batch.id, 60)

    await check_complete(sdk, batch, 90)
    assert batch.metadata == {"study": "a"}
    assert batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert batch.error_file_id is None
    output = await sdk.files.retrieve(batch.output_file_id)
    assert output.purpose == "batch_output"
    assert batch.id in [each.id async for each in sdk.batches.list(limit=3)]
    rows = await lines_of(sdk, batch.output_file_id)
    assert len({row["id"] for row in rows}) == 90
    assert all(row["response"]["status_code"] == 200 and row["error"] is None for row in rows)


async def test_refused_lines_are_in_the_error_file_and_the_rest_is_answered(
    sdk: AsyncOpenAI,
) -> None:
    bad = {**line_of(3), "custom_id": "bad"}
    bad["body"] = {**bad["body"], "temperature": 9}
    failing = {**line_of(4), "custom_id": "failing"}
    failing["body"] = {**failing["body"], "messages": [{"role": "user", "content": "[[fail=1]]"}]}
    lines = [line_of(0), bad, line_of(1), failing, line_of(2)]
    content = b"\n".join(json.dumps(line).encode() for line in lines)

    batch = await ended_batch(sdk, await start_batch(sdk, content), 60)

    output = await lines_of(sdk, batch.output_file_id)
    errors = await lines_of(sdk, batch.error_file_id)
    assert batch.status == "completed"
    assert [row["custom_id"] for row in output] == ["line-0", "line-1", "line-2"]
    assert [row["custom_id"] for row in errors] == ["bad", "failing"]
    assert errors[0]["response"]["status_code"] == 400
    assert errors[0]["response"]["body"]["error"]["param"] == "temperature"
    assert errors[1]["response"]["status_code"] >= 500
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (5, 3, 2)


async def test_a_cancelled_batch_keeps_what_was_answered(sdk: AsyncOpenAI) -> None:
    num_lines = 400
    batch_id = await start_batch(sdk, input_of(num_lines, delay_ms=40))

    async def has_begun() -> bool:
        counts = (await sdk.batches.retrieve(batch_id)).request_counts
        return counts is not None and counts.completed > 0

    await eventually(has_begun, 30, "an answer")
    cancelled = await sdk.batches.cancel(batch_id)
    batch = await ended_batch(sdk, batch_id, 30)

    assert cancelled.status == "cancelling"
    assert batch.status == "cancelled"
    assert batch.cancelling_at <= batch.cancelled_at
    output = await lines_of(sdk, batch.output_file_id)
    errors = await lines_of(sdk, batch.error_file_id)
    names = [row["custom_id"] for row in (*output, *errors)]
    assert sorted(names) == sorted(f"line-{i}" for i in range(num_lines))
    assert 0 < len(output) < num_lines
    assert {row["error"]["code"] for row in errors} == {"batch_cancelled"}
    for row in output:
        number = int(row["custom_id"].removeprefix("line-"))
        assert row["response"]["body"]["choices"][0]["message"]["content"] == answer_to(number)
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (num_lines, len(output), len(errors))
    assert (await sdk.batches.cancel(batch_id)).status == "cancelled"


async def test_a_line_that_was_damaged_after_its_upload_is_an_error_and_no_more(
    sdk: AsyncOpenAI, platform: Stack
) -> None:
    content = input_of(30)
    file = await upload(sdk, content)
    start = content.index(b'"line-7"')
    damaged = content[:start] + b"\x00" * 60 + content[start + 60 :]
    (store_of(platform) / "files" / file.id).write_bytes(damaged)

    batch = await sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    batch = await ended_batch(sdk, batch.id, 60)

    errors = await lines_of(sdk, batch.error_file_id)
    assert batch.status == "completed"
    assert batch.request_counts.total == batch.request_counts.completed + len(errors) == 30
    assert {row["error"]["code"] for row in errors} == {"invalid_json_line"}


@pytest.mark.parametrize(
    ("left", "code"), [(None, "file_not_found"), (input_of(2), "input_damaged")]
)
async def test_an_input_that_lost_lines_fails_its_batch(
    sdk: AsyncOpenAI, platform: Stack, left: bytes | None, code: str
) -> None:
    file = await upload(sdk, input_of(3))
    stored = store_of(platform) / "files" / file.id
    stored.unlink() if left is None else stored.write_bytes(left)

    batch = await sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    batch = await ended_batch(sdk, batch.id, 30)

    assert batch.status == "failed"
    assert batch.errors.data[0].code == code


@pytest.mark.parametrize(
    ("change", "status", "param"),
    [
        ({"input_file_id": "file-none"}, 404, "input_file_id"),
        ({"endpoint": "/v1/embeddings"}, 400, "endpoint"),
        ({"completion_window": "1h"}, 400, "completion_window"),
        ({"metadata": {str(i): "x" for i in range(17)}}, 400, "metadata"),
        ({"metadata": {"a": 1}}, 400, "metadata"),
        ({"output_expires_after": {"anchor": "created_at"}}, 400, "output_expires_after"),
    ],
)
async def test_a_wrong_batch_is_refused(
    sdk: AsyncOpenAI, platform: Stack, change: dict[str, Any], status: int, param: str
) -> None:
    file = await upload(sdk, input_of(1))
    body = {
        "input_file_id": file.id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        **change,
    }
    async with httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{platform.port}/v1/batches"
        answer = await client.post(url, json=body)

    assert answer.status_code == status
    assert answer.json()["error"]["param"].startswith(param)


async def test_a_batch_for_a_model_that_nobody_serves_is_refused(sdk: AsyncOpenAI) -> None:
    file = await upload(sdk, input_of(1, model="nobody"))

    with pytest.raises(openai.NotFoundError) as caught:
        await sdk.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=101", "after=batch_none"])
async def test_a_wrong_page_is_refused(platform: Stack, query: str) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{platform.port}/v1/batches?{query}")

    assert answer.status_code == 400


async def test_unknown_ids_are_not_found(sdk: AsyncOpenAI) -> None:
    for call in (sdk.batches.retrieve, sdk.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            await call("batch_none")


# ----------------------------------------------------------------------------- who may do so


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "galen.example.org"},
        {"x-forwarded-for": "203.0.113.7"},
        {"forwarded": "for=203.0.113.7"},
        {"origin": "https://evil.example.org"},
        {"origin": "null"},
    ],
)
@pytest.mark.parametrize("path", ["files", "batches", "evaluations"])
async def test_strangers_are_refused(platform: Stack, path: str, headers: dict[str, str]) -> None:
    async with httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{platform.port}/v1/{path}"
        answer = await client.get(url, headers=headers)

    assert (answer.status_code, *map(answer.json()["error"].get, ("type", "code"))) == REFUSED
    assert not any(name.startswith("access-control-") for name in answer.headers)


async def test_a_page_of_this_machine_is_served(platform: Stack) -> None:
    async with httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{platform.port}/v1/files"
        answer = await client.get(url, headers={"origin": "http://localhost:7860"})

    assert answer.status_code == 200


async def test_no_prompt_and_no_answer_is_in_the_logs(sdk: AsyncOpenAI, platform: Stack) -> None:
    lines = [line_of(i) for i in range(3)]
    for line in lines:
        line["body"]["messages"][0]["content"] += CANARY
    content = b"\n".join(json.dumps(line).encode() for line in lines)
    await ended_batch(sdk, await start_batch(sdk, content), 30)
    with pytest.raises(openai.BadRequestError):
        await upload(sdk, content + CANARY.encode())

    logs = await asyncio.to_thread(
        lambda: "".join(file.read_text() for file in platform.folder.glob("*.log"))
    )
    assert CANARY not in logs
    assert "zq0001" not in logs
    assert "job.ended" in logs


async def test_what_is_kept_is_nobody_elses_to_read(sdk: AsyncOpenAI, platform: Stack) -> None:
    await ended_batch(sdk, await start_batch(sdk, input_of(2)), 30)

    kept = [path for path in (platform.folder / "store").rglob("*") if not path.is_socket()]
    assert kept
    assert [path for path in kept if path.stat().st_mode & 0o077] == []
