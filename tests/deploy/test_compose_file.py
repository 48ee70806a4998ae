"""docker-compose.yml: rules that need no engine. How it runs: tests/compose."""

import hashlib
import io
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from deploy.compose import setup_secrets
from evaluation.jobs.settings import JobSettings
from services.gateway.settings import GatewaySettings
from services.settings_guard import ServiceSettings
from services.store.settings import StoreSettings
from services.ui.settings import UiSettings
from services.worker.settings import WorkerSettings
from tests.deploy.compose_file import VARIABLE, composition, defaults, services, text
from tests.support.program import ROOT, Program, free_port
from tests.support.redis_server import redis_program
from tests.support.waiting import wait_until

SERVICES = services()
ONE_SHOT = {"setup", "training"}
PUBLISHED_BY_DEFAULT = {"gateway", "ui"}
SETTINGS: tuple[type[ServiceSettings], ...] = (
    GatewaySettings, WorkerSettings, UiSettings, JobSettings, StoreSettings,
)  # fmt: skip
OF_THE_IMAGE = ("worker", "ui", "gateway", "jobs", "worker-gpu", "worker-gpu-tp")
"""Services with a health check in their image (tests/deploy/test_dockerfiles.py)."""
FOLDERS = ("redis", "postgres", "gateway", "worker", "jobs", "grafana")
OF_OTHERS = {"prometheus", "grafana"}
"""Published images of others, which nothing waits for."""


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """What `setup` has before it: an empty folder, a volume, for each service."""
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
    return tmp_path


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] <= 2048
    assert service["ulimits"] == {"core": 0}
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
    assert service["logging"]["options"]["max-size"]
    assert not service.get("privileged")
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", []))


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_images_are_pinned(name: str) -> None:
    tag = SERVICES[name]["image"].rpartition(":")[2]

    assert re.search(r"\d", tag)
    assert "latest" not in tag


def test_gateway_and_page_alone_are_published_and_on_this_machine_only() -> None:
    for name, service in SERVICES.items():
        ports = service.get("ports", [])
        assert all(port.startswith("127.0.0.1:") for port in ports), name
        if ports and "profiles" not in service:
            assert name in PUBLISHED_BY_DEFAULT


def test_the_inner_network_has_no_way_out() -> None:
    assert composition()["networks"]["inner"] == {"internal": True}
    for name in ("redis", "postgres", "worker", "jobs"):
        assert SERVICES[name]["networks"] == ["inner"]


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONE_SHOT - OF_OTHERS))
def test_every_service_has_a_health_check(name: str) -> None:
    assert ("healthcheck" in SERVICES[name]) != (name in OF_THE_IMAGE)


def test_a_full_redis_forgets_nothing() -> None:
    said = (ROOT / "deploy" / "compose" / "redis.conf").read_text(encoding="utf-8").splitlines()

    assert "maxmemory-policy noeviction" in said
    assert "appendonly yes" in said
    assert "--maxmemory" in SERVICES["redis"]["command"]


def test_each_service_sees_its_own_secrets_only() -> None:
    for name, service in SERVICES.items():
        seen = {
            str(volume).partition(":")[0]
            for volume in service.get("volumes", [])
            if str(volume).startswith("secrets-")
        }
        if name == "setup":
            continue
        own = "worker" if name.startswith("worker") else name
        assert seen <= {f"secrets-{own}"}, name


def test_variables_are_settings_with_values_that_they_take() -> None:
    for name, service in SERVICES.items():
        for variable, value in service.get("environment", {}).items():
            if not variable.startswith("GALEN_") or name == "proxy":
                continue
            field = _field(variable)
            assert field is not None, f"{name}: {variable} is no setting"
            try:
                TypeAdapter(field.annotation).validate_python(_as_given(field, value))
            except ValidationError as error:
                pytest.fail(f"{name}: {variable}={value}: {error}")


def _field(variable: str) -> Any:  # pydantic's own
    for settings in SETTINGS:
        prefix = settings.model_config.get("env_prefix", "")
        if variable.startswith(prefix):
            return settings.model_fields.get(variable.removeprefix(prefix).lower())
    return None


def _as_given(field: Any, value: object) -> object:
    return tuple(filter(None, str(value).split(","))) if "tuple" in str(field.annotation) else value


def test_a_gateway_has_longer_to_end_than_it_drains() -> None:
    gateway = SERVICES["gateway"]
    drain_s = float(gateway["environment"]["GALEN_GATEWAY_DRAIN_TIMEOUT_S"])

    assert float(gateway["stop_grace_period"].rstrip("s")) > drain_s + 10


def test_the_example_of_settings_is_complete() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    said = dict(re.findall(r"^#? ?([A-Z_]+)=(.*)$", example, re.MULTILINE))
    known = defaults()

    assert set(said) - {"COMPOSE_PROFILES"} == set(known)
    for name, values in known.items():
        assert said[name] in values, f"{name} is {said[name]} in .env.example, not {values}"


def test_variables_have_one_form() -> None:
    found = VARIABLE.findall(text())

    assert found
    assert all(operator in {":-", "-"} for _, operator, _ in found)
    assert text().count("${") == len(found)


# ------------------------------------------------------------------------------------- secrets


def test_secrets_are_made_once_and_belong_together(secrets: Path) -> None:

    made = setup_secrets.missing_secrets(secrets)
    setup_secrets.write(secrets, made)

    assert setup_secrets.missing_secrets(secrets) == {}
    password = (secrets / "postgres/password").read_text("utf-8")
    assert password in made["gateway/galen_store_database_url"]
    assert made["gateway/galen_store_database_url"] == made["jobs/galen_store_database_url"]
    assert made["gateway/galen_store_key_pepper"] == made["jobs/galen_store_key_pepper"]
    for user in setup_secrets.ACL_RULES:
        url = made[f"{user}/galen_{user}_redis_url"]
        hashed = hashlib.sha256(url.partition(f"{user}:")[2].partition("@")[0].encode())
        assert f"user {user} on #{hashed.hexdigest()} " in made["redis/users.acl"]


def test_secrets_are_shown_by_name(secrets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = setup_secrets.missing_secrets(secrets)
    setup_secrets.write(secrets, made)
    show = ("--folder", str(secrets), "show")

    setup_secrets.main(show)
    assert capsys.readouterr().out.split() == sorted(made)
    setup_secrets.main((*show, "postgres/password"))
    assert capsys.readouterr().out == made["postgres/password"]
    with pytest.raises(SystemExit, match=r"there is no ../made; there are gateway/"):
        setup_secrets.main((*show, "../made"))


def test_a_release_with_other_rules_writes_the_list_of_users_anew(secrets: Path) -> None:
    setup_secrets.write(secrets, setup_secrets.missing_secrets(secrets))
    users = secrets / "redis/users.acl"
    made = users.read_text("utf-8")
    users.chmod(0o644)
    users.write_text(made.replace("+@all -@admin", "+@all"), encoding="utf-8")

    assert setup_secrets.missing_secrets(secrets) == {"redis/users.acl": made}


def test_an_empty_file_is_no_secret(secrets: Path) -> None:
    (secrets / "postgres/password").touch()

    assert len(setup_secrets.missing_secrets(secrets)["postgres/password"]) == 64


def test_what_lies_in_memory_fits_into_it() -> None:
    sizes = {
        name: (str(service["tmpfs"][0]), service["mem_limit"])
        for name, service in SERVICES.items()
        if "size=" in str(service["tmpfs"][0])
    }

    assert {"gateway", "ui"} <= set(sizes)
    for tmpfs, limit in sizes.values():
        assert _bytes(tmpfs.rpartition("size=")[2]) <= _bytes(limit) / 2


def _bytes(size: str) -> int:
    return int(size[:-1]) << {"m": 20, "g": 30}[size[-1]]


def test_kernels_that_are_compiled_may_be_loaded() -> None:
    for name in ("worker-gpu", "worker-gpu-tp"):
        assert "exec" in SERVICES[name]["tmpfs"][0]


def test_secrets_that_were_cut_short_are_completed(secrets: Path) -> None:
    whole = setup_secrets.missing_secrets(secrets)
    kept = {path: whole[path] for path in ("postgres/password", "worker/galen_worker_redis_url")}
    setup_secrets.write(secrets, kept)

    rest = setup_secrets.missing_secrets(secrets)

    assert "postgres/password" not in rest
    assert whole["postgres/password"] in rest["jobs/galen_store_database_url"]
    # addresses of Redis are made anew together: the list of users had not been written
    assert "worker/galen_worker_redis_url" in rest


def test_secrets_of_a_backup_are_put_into_all_their_places(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pepper = "gateway/galen_store_key_pepper"

    def put(name: str, said: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(said))
        setup_secrets.main(["--folder", str(secrets), "put", name])

    put(pepper, "of a backup\n")
    setup_secrets.main(["--folder", str(secrets)])
    put("gateway/galen_gateway_audit_key", "another")

    for folder in ("gateway", "jobs"):
        file = secrets / folder / "galen_store_key_pepper"
        assert file.read_text("utf-8") == "of a backup"
    assert (secrets / "gateway/galen_gateway_audit_key").read_text("utf-8") == "another"
    for name, said in ((pepper, "\n"), ("postgres/password", "mine")):
        with pytest.raises(SystemExit, match=name):
            put(name, said)


@contextmanager
def redis_with_users(tmp_path: Path, users: str) -> Iterator[tuple[Program, int]]:
    """A real Redis with a list of users, and a file of what it was told."""
    acl = tmp_path / "users.acl"
    acl.write_text(users, encoding="utf-8")
    port = free_port()
    server = redis_program(tmp_path, log=tmp_path / "redis.log", durable=True)
    # tmp_path is too long for a socket
    options = [word for word in server.command[1:] if "redis.sock" not in word]
    options.remove("--unixsocket")
    options[options.index("--port") + 1] = str(port)
    server.command = [server.command[0], *options, "--aclfile", str(acl)]
    server.start()
    try:
        wait_for_redis(port)
        yield server, port
    finally:
        server.end()


def wait_for_redis(port: int) -> None:
    with Redis(port=port, username="health", password="none") as health:
        wait_until(lambda: _pings(health), "redis")


def users_of_compose() -> str:
    return setup_secrets.acl_file({user: f"of-{user}" for user in setup_secrets.ACL_RULES})


def test_a_real_redis_takes_the_list_of_users(tmp_path: Path) -> None:
    with redis_with_users(tmp_path, users_of_compose()) as (_, port):
        with Redis(port=port, username="worker", password="of-worker") as worker:
            worker.hset("galen:workers", "w", "1")
            for forbidden in (("FLUSHALL",), ("KEYS", "*"), ("GET", "galen:limit:k")):
                with pytest.raises(NoPermissionError):
                    worker.execute_command(*forbidden)
        for password in (None, "", "none"):
            with (
                Redis(port=port, username="default", password=password) as stranger,
                pytest.raises(AuthenticationError),
            ):
                stranger.ping()


def test_a_redis_that_was_killed_has_what_transactions_and_scripts_wrote(tmp_path: Path) -> None:
    """Redis 7 forgets it where `default` has no rights: tests/compose/test_faults.py sees that."""
    keys = ("galen:workers", "galen:models", "galen:depth", "galen:epoch")
    with redis_with_users(tmp_path, users_of_compose()) as (server, port):
        with Redis(port=port, username="worker", password="of-worker") as worker:
            with worker.pipeline(transaction=True) as pipe:
                pipe.hset(keys[0], "w", "1")
                pipe.hset(keys[1], "m", "1")
                pipe.execute()
            write_two = "redis.call('SET', KEYS[1], 1) redis.call('SET', KEYS[2], 1)"
            worker.eval(write_two, 2, *keys[2:])
        server.send(signal.SIGKILL)
        wait_until(lambda: server.exit_code is not None, "the end of redis")
        server.start()
        wait_for_redis(port)
        with Redis(port=port, username="worker", password="of-worker") as worker:
            assert worker.exists(*keys) == 4


def _pings(client: Redis) -> bool:
    return bool(client.ping())
