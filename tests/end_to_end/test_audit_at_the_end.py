"""The audit where the database is away, and at the end of a gateway."""

import json
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.gateway.media.image_files import data_url, noise
from tests.support.client import Client
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e


@pytest.fixture
async def broken(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    (tmp_path / "store").write_text("a file, where a folder should be")
    settings = {"GALEN_GATEWAY_AUDIT": request.param, "GALEN_GATEWAY_AUTH": "off"}
    async with Stack(tmp_path, num_workers=1, durable=False, settings=settings) as stack:
        yield stack


@pytest.mark.parametrize("broken", ["best_effort", "off"], indirect=True)
async def test_chat_goes_on_without_a_database(broken: Stack) -> None:
    assert (await Client(broken.port).ask("[[n=2]]")).status == 200


@pytest.mark.parametrize("broken", ["required"], indirect=True)
async def test_where_the_audit_is_required_chat_waits_for_the_database(
    broken: Stack, tmp_path: Path
) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{broken.port}/v1") as client:
        body = {"model": "fake", "messages": [{"role": "user", "content": "[[n=2]]"}]}
        refused = await client.post("/chat/completions", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "audit_unavailable")
        assert refused.headers["retry-after"] == "5"
        looked = {"model": "fake", "image_url": {"url": data_url(noise(60, 60, seed=1))}}
        unseen = await client.post("/galen/preview", json=looked)
        assert (unseen.status_code, unseen.json()["error"]["code"]) == (503, "audit_unavailable")

        (tmp_path / "store").unlink()

        async def is_answered() -> bool:
            return (await client.post("/chat/completions", json=body)).status_code == 200

        await eventually(is_answered, 10.0, "an answer")


async def test_a_gateway_that_ends_writes_its_last_records_and_where_its_chain_ends(
    tmp_path: Path,
) -> None:
    async with Stack(tmp_path, num_workers=1, durable=False) as stack:
        record = await Client(stack.port).ask("[[n=2]]")
        stack.gateways[0].send(signal.SIGTERM)
        assert await stack.exit_code_of(stack.gateways[0], 15.0) == 0
        log = stack.log_of(stack.gateways[0])

    with sqlite3.connect(tmp_path / "store" / "galen.db") as database:
        rows = database.execute("SELECT request_id, number, hash FROM audit").fetchall()
    database.close()
    (ended,) = [json.loads(line) for line in log.splitlines() if "audit.ended" in line]
    assert record.status == 200
    assert [row[1:] for row in rows] == [(1, ended["hash"])]
    assert (ended["number"], ended["unwritten"]) == (1, 0)
