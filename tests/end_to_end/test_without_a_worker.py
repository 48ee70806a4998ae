"""A model without a worker: gateways say so, requests wait for the next one, or it is unloaded."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.support.client import Client
from tests.support.stack import MODEL, Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e


async def test_a_balancer_may_send_requests_that_wait_for_a_worker(tmp_path: Path) -> None:
    async with Stack(tmp_path, num_workers=1, durable=False) as stack:
        stack.kill_worker(stack.workers[0])

        async def is_without_a_worker() -> bool:
            return await stack.ready() == 503

        await eventually(is_without_a_worker, 10.0, "503 of /readyz")
        url = f"http://127.0.0.1:{stack.port}/readyz"
        async with httpx.AsyncClient(trust_env=False) as http:
            told = await http.get(url, params={"worker": "optional"})
            strict = await http.get(url, params={"worker": "needed"})
        assert (told.status_code, strict.status_code) == (200, 503)
        assert told.json()["checks"] == {"accepting": True, "redis": True, "worker": False}

        asking = asyncio.create_task(Client(stack.port).ask("[[n=4]]"))
        await eventually(stack.num_waiting, 5.0, "a request in the queue")
        stack.add_worker("w1")
        assert (await asking).is_complete
        stack.kill_redis()

        async def is_not_ready() -> bool:
            async with httpx.AsyncClient(trust_env=False) as http:
                return (await http.get(url, params={"worker": "optional"})).status_code == 503

        await eventually(is_not_ready, 10.0, "503 without Redis")


async def test_a_model_that_nobody_serves_any_more_is_forgotten_where_one_says_so(
    tmp_path: Path,
) -> None:
    """Else GalenNoWorker would page for it for ever."""
    key = "an-admin-key-of-a-test"
    settings = {"GALEN_GATEWAY_ADMIN_KEY": key}
    async with Stack(tmp_path, num_workers=1, durable=False, settings=settings) as stack:
        stack.kill_worker(stack.workers[0])
        await eventually(lambda: not stack.worker_records(), 10.0, "the end of its lease")
        stack.add_gateway("late")  # to which its workers have always been gone
        url = f"http://127.0.0.1:{stack.ports[-1]}"
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:

            async def is_without_a_worker() -> bool:
                try:
                    told = (await http.get("/metrics")).text
                except httpx.HTTPError as error:
                    raise ConnectionError from error  # it starts
                return f'galen_gateway_workers{{model="{MODEL}",state="ready"}} 0.0' in told

            await eventually(is_without_a_worker, 20.0, "a model without a worker")
            asked = await http.get(f"/v1/models/{MODEL}")
            headers = {"authorization": f"Bearer {key}"}
            done = await http.delete(f"/v1/admin/models/{MODEL}", headers=headers)
            again = await http.delete(f"/v1/admin/models/{MODEL}", headers=headers)
            told = (await http.get("/metrics")).text

    assert [asked.status_code, done.status_code, again.status_code] == [503, 200, 404]
    assert "galen_gateway_workers{" not in told
