"""What is refused when the gateway's memory runs out."""

import mmap

import httpx
import psutil
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from services.gateway.access.parts import make_access
from services.gateway.memory import MemoryGuard
from services.gateway.metrics import GatewayMetrics
from services.gateway.middleware import FrontDoor
from services.gateway.settings import GatewaySettings
from services.protocol.errors import ErrorCode, OverloadedError
from services.store.settings import StoreSettings
from services.tracing.spans import NoTracing

SMALL, LARGE = {b"content-length": b"2000"}, {b"content-length": b"3000000"}


def guard_at(share: float) -> MemoryGuard:
    """One whose limit makes what this process holds `share` of it."""
    return MemoryGuard(int(psutil.Process().memory_info().rss / share), 0.8, 0.92)


def is_refused(guard: MemoryGuard, method: str, headers: dict[bytes, bytes]) -> bool:
    try:
        guard.check_headers(method, headers)
    except OverloadedError as error:
        return error.code is ErrorCode.OVERLOADED and bool(error.retry_after_s)
    return False


@pytest.mark.parametrize(
    ("share", "small", "large", "get"),
    [(0.5, False, False, False), (0.86, False, True, False), (1.2, True, True, True)],
)
def test_limits(share: float, small: bool, large: bool, get: bool) -> None:
    guard = guard_at(share)
    assert is_refused(guard, "POST", SMALL) is small
    assert is_refused(guard, "POST", LARGE) is large
    assert is_refused(guard, "POST", {}) is large  # chunked: who knows how long
    assert is_refused(guard, "GET", {}) is get


def test_what_is_counted_is_this_process() -> None:
    guard = MemoryGuard(1 << 50, 0.8, 0.92)
    before = guard.used_bytes
    assert before == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    size = 200 << 20
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE) as held:  # an allocator may have some left
        held[:] = b"\1" * size
        fresh = MemoryGuard(1 << 50, 0.8, 0.92)
        assert fresh.used_bytes > before + size // 2


def test_without_a_limit_nothing_is_refused_and_nothing_read() -> None:
    guard = MemoryGuard(0, 0.8, 0.92)
    guard.limit_bytes = 0  # whatever this machine's control group says
    assert guard.used_bytes == 0


async def fine(_request: Request) -> Response:
    return Response("fine")


@pytest.mark.parametrize(
    ("share", "path", "num_bytes", "status"),
    [
        (0.86, "/work", 10, 200),
        (0.86, "/work", 100_000, 503),
        (1.2, "/work", 10, 503),
        (1.2, "/healthz", 100_000, 200),
    ],
)
async def test_front_door_refuses_before_it_reads(
    share: float, path: str, num_bytes: int, status: int
) -> None:
    direct = {("POST", "/work"): fine, ("POST", "/healthz"): fine}
    access = make_access(GatewaySettings(auth="off"), StoreSettings())
    door = FrontDoor(FastAPI(), direct, GatewayMetrics(), guard_at(share), access, NoTracing())
    transport = httpx.ASGITransport(door)
    async with httpx.AsyncClient(transport=transport, base_url="http://galen") as client:
        response = await client.post(path, content=b"x" * num_bytes)
    assert response.status_code == status
    if status == 503:
        assert response.json()["error"]["code"] == "overloaded"
        assert response.headers["retry-after"] == "5"
        assert response.headers["connection"] == "close"
