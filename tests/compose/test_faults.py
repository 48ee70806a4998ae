"""Containers are killed one after another under load: nothing that was accepted is lost."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from tests.compose.composition import FAKE_MODEL, SERVICES, Composition
from tests.support.batches import check_complete, ended_batch, input_of, start_batch
from tests.support.client import Client
from tests.support.load import Load, assert_correct
from tests.support.waiting import eventually

NUM_LINES = 1500
HARMLESS_TO_CHAT = ("worker", "jobs", "postgres", "ui")
"""Whoever chats meanwhile notices nothing of their deaths."""
KILLED = (*HARMLESS_TO_CHAT, "worker-fake", "redis", "gateway")


@pytest.fixture
async def patient_client(composition: Composition, api_key: str) -> AsyncIterator[AsyncOpenAI]:
    url = f"http://{composition.address('gateway', 8000)}/v1"
    async with AsyncOpenAI(base_url=url, api_key=api_key, max_retries=8, timeout=60) as client:
        yield client


@pytest.mark.timeout(900)
async def test_a_batch_loses_no_line_while_everything_dies_once(
    composition: Composition, patient_client: AsyncOpenAI, api_key: str
) -> None:
    composition.compose("up", "--detach", "--no-build", "--scale", "worker-fake=2", "worker-fake")
    await asyncio.to_thread(composition.wait_healthy)
    client = Client(
        int(composition.address("gateway", 8000).rpartition(":")[2]),
        model=FAKE_MODEL,
        api_key=api_key,
        deadline_s=180,
    )
    content = input_of(NUM_LINES, model=FAKE_MODEL, delay_ms=150)
    batch_id = await start_batch(patient_client, content)

    for service in KILLED:
        async with Load(client, 100_000, prompts=["[[n=60 t=0 d=20]]"], at_once=8) as load:
            await eventually(lambda load=load: load.num_streaming >= 3, 30.0, "streams")
            await asyncio.to_thread(composition.kill, service)
            await asyncio.to_thread(composition.wait_healthy, SERVICES, 180.0)
            num_before = len(load.records)
            await eventually(
                lambda load=load, n=num_before: len(load.records) > n + 16, 30.0, "later requests"
            )
            records = await load.enough()
        if service == "gateway":
            # Its own connections end with it; the ones after it are answered.
            later = records[num_before + 8 :]
            assert all(record.is_complete for record in later)
            continue
        assert_correct(records)  # one end each, and never a wrong or doubled token
        if service in {*HARMLESS_TO_CHAT, "worker-fake"}:
            failed = [record.label for record in records if not record.is_complete]
            assert failed == [], f"{len(failed)} of {len(records)} failed as {service} died"

    batch = await ended_batch(patient_client, batch_id, 300.0)
    await check_complete(patient_client, batch, NUM_LINES)
