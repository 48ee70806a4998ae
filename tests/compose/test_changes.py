"""Changes while it runs: more workers, a new gateway without a failed request, a restart of all."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.compose.composition import FAKE_MODEL, PROJECT, SERVICES, Composition, docker
from tests.compose.documents import run_documented
from tests.support.batches import check_complete, ended_batch, input_of, start_batch
from tests.support.client import Client
from tests.support.load import Load, assert_correct
from tests.support.program import free_port
from tests.support.waiting import eventually

DOMAIN = "localhost"
QUICK = "[[n=20 d=20]]"
LONG = "[[n=150 d=20]]"


def test_workers_are_scaled_to_two(composition: Composition, fake_client: OpenAI) -> None:
    composition.compose("up", "--detach", "--no-build", "--scale", "worker-fake=2", "worker-fake")
    composition.wait_healthy()

    assert len(composition.containers("worker-fake")) == 2
    keys = composition.galen("keys", "create", "an-admin", "--scope", "admin")
    workers = fake_client.with_options(api_key=keys).get("/admin/workers", cast_to=object)
    assert isinstance(workers, dict)
    assert [row["model"] for row in workers["data"]].count(FAKE_MODEL) == 2


@pytest.fixture
def behind_tls(composition: Composition, tmp_path: Path) -> Iterator[tuple[int, ssl.SSLContext]]:
    """The profile `tls`: the proxy's port and what trusts its own certificate."""
    port = free_port()
    before = dict(composition.environment)
    composition.environment |= {
        "GALEN_GATEWAY_PUBLISH": "127.0.0.1:",
        "GALEN_TLS_PUBLISH": f"127.0.0.1:{port}",
        "GALEN_DOMAIN": DOMAIN,
    }
    composition.profiles = "tls"
    composition.up(limit_s=180)
    composition.wait_healthy([*SERVICES, "proxy"])
    run_documented(composition, "deployment.md", "docker cp", tmp_path)
    yield port, ssl.create_default_context(cafile=tmp_path / "galen.crt")
    composition.compose("rm", "--stop", "--force", "proxy")
    composition.profiles = ""
    composition.environment = before
    composition.up()


async def test_the_gateway_is_replaced_and_no_request_fails(
    composition: Composition,
    behind_tls: tuple[int, ssl.SSLContext],
    api_key: str,
    tmp_path: Path,
) -> None:
    port, tls = behind_tls
    client = Client(
        port, model=FAKE_MODEL, api_key=api_key, tls=tls, host=f"api.{DOMAIN}", deadline_s=120
    )
    await eventually(lambda: _is_answered(client), 30.0, "an answer through the proxy")
    (old,) = composition.containers("gateway")

    async with Load(client, 100_000, prompts=[QUICK, LONG], at_once=12) as load:
        await eventually(lambda: load.num_streaming >= 4, 20.0, "streams")
        await asyncio.to_thread(_replace_gateway, composition, tmp_path)
        num_before = len(load.records)
        await eventually(lambda: len(load.records) > num_before + 24, 30.0, "later requests")
        records = await load.enough()

    said = composition.logs("proxy")
    assert composition.containers("gateway") != [old]
    failed = [(r.label, r.status, r.error_code) for r in records if not r.is_complete]
    assert failed == [], said
    assert_correct(records)


async def _is_answered(client: Client) -> bool:
    return (await client.ask("[[n=2]]")).is_complete


def _replace_gateway(composition: Composition, folder: Path) -> None:
    run_documented(composition, "deployment.md", "docker compose build", folder)


@pytest.fixture
async def new_client(composition: Composition, api_key: str) -> AsyncIterator[AsyncOpenAI]:
    url = composition.gateway_url()
    async with AsyncOpenAI(base_url=url, api_key=api_key, max_retries=4, timeout=60) as client:
        yield client


async def test_all_goes_down_and_up_again_and_nothing_is_lost(
    composition: Composition, new_client: AsyncOpenAI, api_key: str
) -> None:
    """Keys, files, and a batch in its middle outlive `down`; volumes hold them."""
    num_lines = 300
    content = input_of(num_lines, model=FAKE_MODEL, delay_ms=60)
    batch_id = await start_batch(new_client, content)

    async def is_under_way() -> bool:
        counts = (await new_client.batches.retrieve(batch_id)).request_counts
        return counts is not None and counts.completed > 10

    await eventually(is_under_way, 60.0, "some answers of the batch")

    await asyncio.to_thread(composition.down, with_data=False)
    assert docker("ps", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}") == ""
    await asyncio.to_thread(composition.up)

    batch = await ended_batch(new_client, batch_id, 180.0)
    await check_complete(new_client, batch, num_lines)
