"""Load of several tenants on one gateway and one worker with the fake engine: sent and clocked.

Arrivals are open: a Poisson process does not wait for answers, so that a slow gateway is not spared
(no coordinated omission). What does *not* live here: what is measured with it (`fairness.py`,
`overload.py`).
"""

import asyncio
import random
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from benchmarks.ours import REPOSITORY, start_redis
from benchmarks.processes import ChildProcesses, require_free_port
from benchmarks.settings import BenchSettings

MODEL = "mock"
_TEXT = re.compile(rb'"content":\s?"zq')
_DONE = b"data: [DONE]"
_NUMBER = {
    name: re.compile(rb"(?im)^" + name + rb":\s*(\d+)")
    for name in (b"x-bench-decided-us", b"retry-after")
}
Lane = Literal["interactive", "batch"]


class Asked(msgspec.Struct, frozen=True):
    """One request.

    Args:
        began: monotonic seconds at which it was due to be sent.
        status: 0: no answer.
        ttft_s: until the first text; None: there was none.
        total_s: until its end.
        tokens: of the answer, as they came.
        token_times: monotonic seconds at which they came.
        decided_us: in the gateway, from the whole body to the headers.
    """

    tenant: str
    began: float
    status: int
    ttft_s: float | None
    total_s: float
    tokens: int
    token_times: list[float]
    decided_us: int
    retry_after_s: int


def start_platform(
    settings: BenchSettings,
    children: ChildProcesses,
    *,
    slots: int,
    max_waiting: int,
    metrics_port: int | None = None,
) -> int:
    """Start Redis, a worker and the gateway of `tenant_gateway.py`; return its port.

    Args:
        metrics_port: of the worker, where one is wanted.
    """
    port = settings.port_base + 160
    require_free_port(port)
    socket_path, _ = start_redis(settings, children, is_durable=False)
    redis_url = f"unix://{socket_path}"
    children.start(
        "tenant_worker",
        [sys.executable, "-m", "services.worker.main"],
        env={
            "GALEN_WORKER_REDIS_URL": redis_url,
            "GALEN_WORKER_ENGINE": "fake",
            "GALEN_WORKER_MODEL_ID": MODEL,
            "GALEN_WORKER_SLOTS": str(slots),
            "GALEN_WORKER_LOG_LEVEL": "warning",
            **({"GALEN_WORKER_METRICS_PORT": str(metrics_port)} if metrics_port else {}),
        },
        cwd=REPOSITORY,
    )
    gateway = children.start(
        "tenant_gateway",
        [sys.executable, "-m", "benchmarks.tenant_gateway"],
        env={
            "GALEN_GATEWAY_REDIS_URL": redis_url,
            "GALEN_GATEWAY_PORT": str(port),
            "GALEN_GATEWAY_MAX_WAITING": str(max_waiting),
            "GALEN_GATEWAY_LOG_LEVEL": "warning",
        },
        cwd=REPOSITORY,
    )
    url = f"http://127.0.0.1:{port}/readyz"
    children.wait_until_ready("tenant_gateway", gateway, url, limit_s=60)
    return port


def body(steering: str, image_url: str | None = None) -> bytes:
    """Return a streamed request whose answer is steered as `fake_engine.py` says."""
    content: list[dict[str, object]] = [{"type": "text", "text": f"[[{steering}]]"}]
    if image_url is not None:
        content.append({"type": "image_url", "image_url": {"url": image_url}})
    return msgspec.json.encode(
        {
            "model": MODEL,
            "stream": True,
            "messages": [{"role": "user", "content": content}],
        }
    )


async def ask(
    port: int, request: bytes, tenant: str, lane: Lane = "interactive", due: float | None = None
) -> Asked:
    """Send a request and read its answer to the end."""
    began = time.monotonic() if due is None else due
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nX-Bench-Tenant: {tenant}\r\nX-Galen-Lane: {lane}\r\n"
        f"Content-Length: {len(request)}\r\n\r\n"
    )
    token_times: list[float] = []
    answer, tail = b"", b""
    try:
        writer.write(head.encode() + request)
        answer = await reader.readuntil(b"\r\n\r\n")
        while chunk := await reader.read(1 << 16):
            token_times += [time.monotonic()] * len(_TEXT.findall(chunk))
            tail = (tail + chunk)[-64:]
            if _DONE in tail:
                break
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()
    ended = time.monotonic()
    return Asked(
        tenant,
        began,
        int(answer.split(b" ", 2)[1]) if answer else 0,
        token_times[0] - began if token_times else None,
        ended - began,
        len(token_times),
        token_times,
        _number(answer, b"x-bench-decided-us"),
        _number(answer, b"retry-after"),
    )


def _number(head: bytes, name: bytes) -> int:
    found = _NUMBER[name].search(head)
    return int(found[1]) if found else 0


class Flow(msgspec.Struct, frozen=True):
    """Requests of one tenant, Poisson in time."""

    tenant: str
    per_s: float
    make: Callable[[], bytes]
    lane: Lane = "interactive"


async def send_open(port: int, flows: Sequence[Flow], seconds: float, seed: int) -> list[Asked]:
    """Send all flows for so long; return all requests when the last one has ended."""
    draw = random.Random(seed)
    arrivals: list[tuple[float, Flow]] = []
    for flow in flows:
        at = draw.expovariate(flow.per_s)
        while at < seconds:
            arrivals.append((at, flow))
            at += draw.expovariate(flow.per_s)
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[Asked]] = []
        for at, flow in sorted(arrivals, key=lambda each: each[0]):
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            sending = ask(port, flow.make(), flow.tenant, flow.lane, began + at)
            tasks.append(group.create_task(sending))
    return [task.result() for task in tasks]


async def send_closed(port: int, flow: Flow, at_once: int, seconds: float) -> list[Asked]:
    """Keep so many requests of a flow under way for so long (`per_s` is not looked at)."""
    until = time.monotonic() + seconds
    done: list[Asked] = []

    async def client() -> None:
        while time.monotonic() < until:
            done.append(await ask(port, flow.make(), flow.tenant, flow.lane))

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(client())
    return done


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of all lie; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def ttft_ms(asked: Sequence[Asked], share: float) -> float:
    """Return a percentile of the time to the first text."""
    return percentile([a.ttft_s for a in asked if a.ttft_s is not None], share) * 1e3
