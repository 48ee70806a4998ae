"""Backup and restore as docs/recovery.md says them for Compose: its own commands."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI

from services.ui.benchmark_files import cut, drawn_scans
from tests.compose.composition import MINIATURE, Composition
from tests.compose.documents import run_documented
from tests.support.batches import ENDED, ended_batch, input_of, lines_of, start_batch
from tests.support.waiting import eventually

NUM_LINES = 20
NUM_QUESTIONS = 6


@dataclass(frozen=True, slots=True)
class Work:
    """What a user had before the loss."""

    file_id: str
    content: bytes
    batch_id: str
    answers: list[dict[str, Any]]
    evaluation: dict[str, Any]


def client_of(composition: Composition, key: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=composition.gateway_url(), api_key=key, max_retries=4, timeout=60)


async def evaluate(client: AsyncOpenAI) -> dict[str, Any]:
    """Ask the miniature some questions about its drawn scans; returns the ended evaluation."""
    questions = cut(drawn_scans(), NUM_QUESTIONS)
    purpose: Any = "evaluation"  # of ours: the SDK's types know OpenAI's
    uploaded = await client.files.create(
        file=("questions.jsonl", questions.content), purpose=purpose
    )
    wanted = {"input_file_id": uploaded.id, "model": MINIATURE, "benchmark": "drawn-scans"}
    made: Any = await client.post("/evaluations", body=wanted, cast_to=object)

    async def has_ended() -> bool:
        return (await evaluation_of(client, made["id"]))["status"] in ENDED

    await eventually(has_ended, 120.0, "the end of the evaluation")
    return await evaluation_of(client, made["id"])


async def evaluation_of(client: AsyncOpenAI, evaluation_id: str) -> dict[str, Any]:
    found: Any = await client.get(f"/evaluations/{evaluation_id}", cast_to=object)
    return found


async def answers_of(client: AsyncOpenAI, batch_id: str) -> list[dict[str, Any]]:
    batch = await client.batches.retrieve(batch_id)
    return await lines_of(client, batch.output_file_id)


async def work(client: AsyncOpenAI) -> Work:
    content = input_of(1)
    kept = await client.files.create(file=("kept.jsonl", content), purpose="batch")
    batch_id = await start_batch(client, input_of(NUM_LINES, model=MINIATURE))
    ended = await ended_batch(client, batch_id, 180.0)
    assert ended.status == "completed", ended
    answers = await answers_of(client, batch_id)
    assert len(answers) == NUM_LINES
    evaluation = await evaluate(client)
    assert evaluation["status"] == "completed", evaluation
    return Work(kept.id, content, batch_id, answers, evaluation)


def back_up(composition: Composition, folder: Path) -> None:
    run_documented(composition, "recovery.md", "mkdir -p backup", folder)


def restore(composition: Composition, folder: Path) -> str:
    return run_documented(composition, "recovery.md", "docker compose run", folder)


@pytest.mark.timeout(1800)
async def test_a_project_comes_back_from_its_backup(
    composition: Composition, api_key: str, tmp_path: Path
) -> None:
    async with client_of(composition, api_key) as client:
        before = await work(client)
    await asyncio.to_thread(back_up, composition, tmp_path)
    late = composition.galen("keys", "create", "late")

    await asyncio.to_thread(composition.down)  # and all volumes with it
    listed = await asyncio.to_thread(restore, composition, tmp_path)
    await asyncio.to_thread(composition.wait_healthy)

    assert "compose-test" in listed
    assert late.rpartition("_")[0] not in listed
    async with client_of(composition, api_key) as client:  # the key is good again
        assert (await client.files.content(before.file_id)).content == before.content
        assert await answers_of(client, before.batch_id) == before.answers
        assert await evaluation_of(client, before.evaluation["id"]) == before.evaluation
        # and there is more to come
        batch_id = await start_batch(client, input_of(2, model=MINIATURE))
        assert (await ended_batch(client, batch_id, 120.0)).status == "completed"
