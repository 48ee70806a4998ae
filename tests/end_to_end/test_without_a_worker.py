"""Between two workers of a model: gateways say so, and a request waits for the next one."""

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.support.client import Client
from tests.support.stack import Stack
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
