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
