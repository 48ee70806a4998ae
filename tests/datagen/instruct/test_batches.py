"""Conversations through `/v1/batches`: our own gateway's, with real job workers."""

import json
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from services.endpoint_client.batches import result_of
from tests.datagen.instruct.figures import CONVERSATION, command, environment, lines, record, write
from tests.support.program import ROOT
from tests.support.stack import Stack
from tests.support.waiting import eventually


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Stack]:
    async with Stack(tmp_path, num_workers=1) as stack:
        stack.add_jobs("jobs")
        yield stack


def started(*words: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(*words), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True
    )


async def told(process: "subprocess.Popen[str]") -> tuple[int, str]:
    await eventually(lambda: process.poll() is not None, 90, "the command's end")
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    return process.returncode, said


@pytest.mark.e2e
async def test_batch_is_found_again_after_a_kill_and_begun_once(platform: Stack, tmp_path: Path):
    # The fake engine answers numbered tokens, which are no conversation: each figure comes back.
    source = write(tmp_path / "figures.jsonl", [record(number) for number in range(6)])
    out, url = tmp_path / "out.jsonl", f"http://127.0.0.1:{platform.port}/v1"
    words = (source, "--out", out, "--url", url, "--batch", "--structured", "off", "--tries", 1)
    noted = tmp_path / "out.jsonl.batches.json"
    words = (*words, "--model", "fake", "--max-tokens", 40)
    first = started(*words)
    await eventually(lambda: noted.exists() and json.loads(noted.read_text()), 60, "a batch")
    first.kill()
    await told(first)
    code, said = await told(started(*words))
    async with AsyncOpenAI(base_url=url, api_key="none") as client:
        batches = [batch async for batch in client.batches.list()]
    assert code == 3, said
    assert len(batches) == 1
    assert not noted.exists()
    assert len(lines(tmp_path / "out.jsonl.failures.jsonl")) == 6


ROUND = "User: What is shown?\n\nAssistant: A scan of the chest."


@pytest.mark.e2e
async def test_conversations_come_through_a_real_batch_and_a_kill_costs_none(tmp_path: Path):
    script = tmp_path / "script.jsonl"
    script.write_text(json.dumps({"match": "Scan number", "answer": ROUND}))
    given = [record(number, fig_caption=f"Scan number {number}. [[d=60]]") for number in range(24)]
    source, out = write(tmp_path / "figures.jsonl", given), tmp_path / "out.jsonl"
    settings = {"GALEN_WORKER_FAKE_SCRIPT": str(script)}
    async with Stack(tmp_path, num_workers=1, slots=2, settings=settings) as stack:
        stack.add_jobs("jobs")
        url = f"http://127.0.0.1:{stack.port}/v1"
        words = (source, "--out", out, "--url", url, "--batch", "--tries", 1)
        async with AsyncOpenAI(base_url=url, api_key="none") as client:
            first = started(*words)

            async def is_halfway() -> bool:
                found = [batch async for batch in client.batches.list()]
                counts = found[0].request_counts if found else None
                return counts is not None and 0 < counts.completed < 23

            await eventually(is_halfway, 60, "some lines of the batch")
            first.kill()
            await told(first)
            code, said = await told(started(*words))
            [batch] = [batch async for batch in client.batches.list()]
        finished = await stack.metric("galen_gateway_finished_choices_total")
    assert code == 0, said
    made = lines(out)
    assert sorted(each["pair_id"] for each in made) == [each["pair_id"] for each in given]
    assert {each["result"] for each in made} == {ROUND}
    assert all(each["generation"]["completion_tokens"] for each in made)
    assert batch.request_counts is not None
    assert batch.request_counts.total == 23  # one was asked directly
    assert finished == 24
    assert not (tmp_path / "out.jsonl.failures.jsonl").read_text()


def result(pair_id: str, text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    head = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
    body: dict[str, Any] = {**head, "choices": choices, "usage": usage}
    line = {"custom_id": pair_id, "response": {"status_code": 200, "body": body}, "error": None}
    return json.dumps(line).encode()


def test_results_of_a_batch_say_what_became_of_each_line():
    good = result_of(result("a", CONVERSATION))
    assert good.reply is not None
    assert (good.custom_id, good.reply.text, good.reply.prompt_tokens) == ("a", CONVERSATION, 7)
    late = result_of(b'{"custom_id": "b", "response": null, "error": {"code": "batch_expired"}}')
    assert (late.reply, late.was_asked) == (None, False)
    refused = b'{"status_code": 400, "body": {"error": {"code": "x"}}}'
    wrong = b'{"custom_id": "c", "response": ' + refused + b"}"
    assert (result_of(wrong).why, result_of(wrong).was_asked) == ("HTTP 400, x", True)
    empty = b'{"custom_id": "d", "response": {"status_code": 200, "body": {}}, "error": null}'
    assert result_of(empty).why == "no chat completion"
