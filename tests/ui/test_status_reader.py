"""The one reader of the gateway's state: how often it asks, and who may see what it read."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from prometheus_client import generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from services.gateway.metrics import GatewayMetrics
from services.ui.gateway_client import Gateways
from services.ui.problems import GatewayError
from services.ui.status_reader import StatusReader
from tests.support.stub_endpoint import StubEndpoint, completion

STATUS = {"workers": [], "hosts": [], "queues": [], "gateway": {"id": "g"}}


@dataclass
class Gateway:
    """Answers as the administration does, to the keys that it is told of."""

    admins: set[str] = field(default_factory=lambda: {"one", "two"})
    with_metrics: set[str] = field(default_factory=lambda: {"one", "two"})
    metrics: GatewayMetrics = field(default_factory=GatewayMetrics)
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Path and key."""
    now_s: float = 100.0
    url: str = ""

    def routes(self) -> list[Route]:
        paths = ("/v1/admin/status", "/v1/admin/errors", "/metrics")
        return [Route(path, self.answer) for path in paths]

    async def answer(self, request: Request) -> Response:
        path = request.url.path
        key = request.headers["authorization"].removeprefix("Bearer ")
        self.asked.append((path, key))
        if path == "/metrics":
            if key not in self.with_metrics:
                return Response(status_code=403)
            return Response(generate_latest(self.metrics.registry))
        if key not in self.admins:
            error = {"message": "no", "type": "permission_error", "code": "admin_forbidden"}
            return JSONResponse({"error": error}, 403)
        return JSONResponse(STATUS if path.endswith("status") else {"data": []})

    def reads(self) -> list[str]:
        return [key for path, key in self.asked if path.endswith("/status")]


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    found = Gateway()
    with StubEndpoint(lambda body, number: completion(""), more_routes=found.routes()) as stub:
        found.url = stub.url
        yield found


@asynccontextmanager
async def reading_of(gateway: Gateway) -> AsyncIterator[StatusReader]:
    gateways = Gateways(gateway.url, 10.0)
    try:
        yield StatusReader(gateways, lambda: gateway.now_s)
    finally:
        await gateways.close()


async def test_all_who_look_within_two_seconds_see_one_reading(gateway: Gateway) -> None:
    async with reading_of(gateway) as reader:
        first = await reader.read("one")
        second = await reader.read("two")  # not known yet: it has to show that it may
        gateway.now_s += 1.9
        assert await reader.read("one") is second
        assert await reader.read("two") is second
        gateway.now_s += 0.2
        assert await reader.read("one") is not first

    assert gateway.reads() == ["one", "two", "one"]


async def test_a_key_that_may_not_sees_nothing_though_others_may(gateway: Gateway) -> None:
    async with reading_of(gateway) as reader:
        await reader.read("one")
        with pytest.raises(GatewayError) as refused:
            await reader.read("stranger")

    assert refused.value.problem.code == "admin_forbidden"


async def test_a_revoked_key_sees_what_others_read_for_ten_seconds_at_most(
    gateway: Gateway,
) -> None:
    async with reading_of(gateway) as reader:
        await reader.read("two")
        gateway.admins.remove("two")
        for _ in range(4):
            gateway.now_s += 2.4
            await reader.read("one")
            await reader.read("two")
        gateway.now_s += 2.4
        await reader.read("one")
        with pytest.raises(GatewayError):
            await reader.read("two")


async def test_a_change_is_seen_at_once(gateway: Gateway) -> None:
    async with reading_of(gateway) as reader:
        await reader.read("one")
        reader.forget()
        await reader.read("one")

    assert gateway.reads() == ["one", "one"]


async def test_a_key_without_metrics_sees_all_but_the_rates(gateway: Gateway) -> None:
    gateway.with_metrics.clear()
    async with reading_of(gateway) as reader:
        snapshot = await reader.read("one")

    assert snapshot.status == STATUS
    assert snapshot.no_rates is not None
    assert "403" in snapshot.no_rates.text()


async def test_rates_come_with_the_second_reading(gateway: Gateway) -> None:
    gateway.metrics.completion_tokens.labels("med").inc(10)
    async with reading_of(gateway) as reader:
        before = await reader.read("one")
        gateway.metrics.completion_tokens.labels("med").inc(60)
        gateway.now_s += 3
        after = await reader.read("one")

    assert before.rates == []
    assert [(rate.model, rate.generated_per_s) for rate in after.rates] == [("med", 20.0)]
    assert after.covered_s == 3
