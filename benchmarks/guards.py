"""What each guard costs a request, in the gateway's own process: microseconds of its one core.

A real Redis and a real SQLite stand behind them. Of what waits for Redis, processor time is
measured, many requests at once, and the time of one alone beside it. Bad keys are timed in two
kinds, which must not be told apart (Welch's t-test; |t| below 2.6 is p above 0.01): ids of keys
that exist with a wrong secret, and random ones.

Run: python -m benchmarks.guards [--write-page]
"""

import asyncio
import gc
import math
import random
import secrets
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr

from benchmarks.ours import REPOSITORY
from benchmarks.page_sections import replace_section, table
from services.gateway.access.expected_tokens import ExpectedTokens
from services.gateway.access.parts import Access, make_access
from services.gateway.caller import Caller
from services.gateway.settings import GatewaySettings
from services.protocol.key_limits import KeyLimits
from services.store.key_records import NewKey, add_key
from services.store.key_secrets import load_secrets
from services.store.settings import StoreSettings
from services.telemetry import redacted
from tests.support.redis_server import redis_program, socket_in
from tests.support.waiting import wait_until

_REQUESTS = 20_000
_ROUNDS = 7
_AT_ONCE = 64
_TIMED = 10_000
_NUM_KEYS = 1000
_LIMITS = KeyLimits(10**9, 10**15, 10**9, 10**15)
_LOG_LINE = (
    '{"event":"request.finished","request_id":"chatcmpl-0123456789abcdef01234567","status":200,'
    '"route":"/v1/chat/completions","method":"POST","code":null,"duration_s":0.1,'
    '"model":"galen-demo","stream":true,"prompt_tokens":700,"completion_tokens":20,'
    '"key_id":"galen_0123456789abcdef","tenant":"ward-3","service":"gateway"}'
)

Row = tuple[str, str, str]


def scope_with(key: str | None) -> dict[str, Any]:
    """A chat request's scope, with the headers that the openai SDK sends."""
    headers = [(b"host", b"127.0.0.1:8000"), (b"accept", b"application/json")]
    headers += [(b"x-stainless-%d" % i, b"x") for i in range(8)]
    if key is not None:
        headers.append((b"authorization", f"Bearer {key}".encode()))
    return {
        "type": "http", "path": "/v1/chat/completions", "method": "POST", "headers": headers,
        "client": ("127.0.0.1", 1), "galen.request_id": f"chatcmpl-{secrets.token_hex(12)}",
    }  # fmt: skip


async def per_call_us(work: Callable[[], Awaitable[object]], calls: int = _REQUESTS) -> str:
    """The median over rounds of processor time per call."""
    rounds: list[float] = []
    for _ in range(_ROUNDS):
        gc.collect()
        began = time.process_time()
        for _ in range(calls):
            await work()
        rounds.append((time.process_time() - began) / calls * 1e6)
    return f"{statistics.median(rounds):.1f}"


async def at_once_us(work: Callable[[], Awaitable[object]], calls: int = 4096) -> str:
    """As `per_call_us`, with many under way."""
    rounds: list[float] = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        for _ in range(calls // _AT_ONCE):
            await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
        rounds.append((time.process_time() - began) / calls * 1e6)
    return f"{statistics.median(rounds):.1f}"


async def alone_us(work: Callable[[], Awaitable[object]], calls: int = 1000) -> str:
    """The median of the time that one call takes, nothing else under way."""
    times: list[float] = []
    for _ in range(calls):
        began = time.perf_counter()
        await work()
        times.append((time.perf_counter() - began) * 1e6)
    return f"{statistics.median(times):.0f}"


def refusal_s(access: Access, key: bytes) -> float:
    """How long the look-up of a bad key takes; what then follows is the same for all of them."""
    began = time.perf_counter()
    caller = access.ring.find(key)
    took_s = time.perf_counter() - began
    if caller is not None:
        raise AssertionError("a bad key was taken")
    return took_s


def welch_t(access: Access, known_ids: list[str]) -> tuple[float, list[float]]:
    """Welch's t of both kinds of bad keys, in turns, and their medians in microseconds."""
    bad = [(0, random.choice(known_ids)) for _ in range(_TIMED)]
    bad += [(1, f"galen_{secrets.token_hex(8)}") for _ in range(_TIMED)]
    random.shuffle(bad)
    kinds: list[list[float]] = [[], []]
    for kind, key_id in bad:
        kinds[kind].append(refusal_s(access, f"{key_id}_{secrets.token_hex(32)}".encode()))
    cut = [sorted(times)[: int(len(times) * 0.99)] for times in kinds]  # the machine's own pauses
    means = [statistics.fmean(times) for times in cut]
    errors = [statistics.variance(times) / len(times) for times in cut]
    t = (means[0] - means[1]) / math.sqrt(sum(errors))
    return t, [statistics.median(times) * 1e6 for times in cut]


async def measured(folder: Path) -> tuple[list[Row], str]:
    """Everything, on a Redis and a database in `folder`."""
    store_settings = StoreSettings(dir=folder / "store")
    redis_url = SecretStr(f"unix://{socket_in(folder)}")
    settings = GatewaySettings(auth="required", redis_url=redis_url)
    access, opened = (
        make_access(settings, store_settings),
        make_access(GatewaySettings(auth="off", redis_url=redis_url), store_settings),
    )
    key_secrets = load_secrets(store_settings)
    async with access.store.begin() as session:
        made = [
            await add_key(session, key_secrets, NewKey(f"k{i}", "t", ("chat",)))
            for i in range(_NUM_KEYS)
        ]
    await access.open()
    good = made[_NUM_KEYS // 2].key
    expected = ExpectedTokens(676, 256)
    free, bound = Caller("t", "galen_free"), Caller("t", "galen_bound", limits=_LIMITS)
    with_key, without = scope_with(good), scope_with(None)

    async def count(caller: Caller) -> None:
        scope = scope_with(None)
        await access.meter.begin(scope, caller, "m", expected)
        access.meter.end(scope, 200)

    async def enter_and_settle() -> None:
        await count(bound)

    async def no_limits() -> None:
        await count(free)

    async def bare_scope() -> None:
        scope_with(None)

    async def redact() -> None:
        redacted(_LOG_LINE)

    await access.meter.begin(scope_with(None), bound, "m", expected)
    rows: list[Row] = [
        ("who asks: a good key", await per_call_us(lambda: access.gate.admit(with_key)), ""),
        ("who asks: nobody is asked", await per_call_us(lambda: opened.gate.admit(without)), ""),
        (
            "use is counted, no limits (with the making of a scope, next row)",
            await per_call_us(no_limits), "",
        ),
        ("  of it, making the scope that the benchmark needs", await per_call_us(bare_scope), ""),
        (
            "use is counted, all four limits (two scripts in Redis)",
            await at_once_us(enter_and_settle), await alone_us(enter_and_settle),
        ),
        ("secrets are cut out of a log line", await per_call_us(redact), ""),
    ]  # fmt: skip
    t, medians = welch_t(access, [each.row.id for each in made])
    await access.close()
    await access.store.close()
    await opened.close()
    await opened.store.close()
    note = (
        f"Bad keys, {_TIMED} with the id of a key that exists and {_TIMED} with a random one, "
        f"mixed, the slowest hundredth left out: medians {medians[0]:.2f} and {medians[1]:.2f} us, "
        f"Welch's t = {t:.2f} (|t| < 2.6: not told apart at p = 0.01)."
    )
    return rows, note


def main(
    *,
    write_page: Annotated[bool, typer.Option("--write-page", help="Into docs.")] = False,
) -> None:
    with tempfile.TemporaryDirectory(prefix="galen-guards-") as name:
        folder = Path(name)
        server = redis_program(folder, log=folder / "redis.log")
        server.start()
        try:
            wait_until(socket_in(folder).exists, "redis")
            rows, note = asyncio.run(measured(folder))
        finally:
            server.end()
    head = ("guard", "us of the gateway's core", "us until it is done, alone")
    text = (
        "## What the guards of a request cost\n\n"
        f"`python -m benchmarks.guards --write-page`; {_NUM_KEYS} keys, medians of {_ROUNDS} "
        f"rounds; with limits {_AT_ONCE} requests at once.\n\n{table(head, rows)}\n\n{note}"
    )
    typer.echo(text)
    if write_page:
        replace_section(REPOSITORY / "docs" / "benchmarks.md", "guards", text)


if __name__ == "__main__":
    typer.run(main)
