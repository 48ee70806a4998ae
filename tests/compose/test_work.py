"""The four uses: a chat with an image, a batch, an evaluation, the command line."""

import json

import httpx
import pytest
from openai import AsyncOpenAI, AuthenticationError, OpenAI
from PIL import Image

from tests.compose.composition import FAKE_MODEL, MINIATURE, SERVICES, Composition, inspect
from tests.end_to_end.chat import user
from tests.support.batches import check_complete, ended_batch, input_of, start_batch
from tests.support.program import ROOT, free_port
from tests.support.waiting import eventually

DEMO = ROOT / "modeling" / "demo_model"


def test_both_models_are_listed(fake_client: OpenAI) -> None:
    assert {model.id for model in fake_client.models.list()} == {FAKE_MODEL, MINIATURE}


def test_the_miniature_sees_what_is_on_a_scan(fake_client: OpenAI) -> None:
    with Image.open(DEMO / "ct.png") as scan:
        messages = [user("Which modality is this image?", scan.convert("RGB"))]
        answer = fake_client.chat.completions.create(
            model=MINIATURE, messages=messages, temperature=0, max_tokens=20
        )
        streamed = fake_client.chat.completions.create(
            model=MINIATURE, messages=messages, temperature=0, max_tokens=20, stream=True
        )
        pieces = [chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices]

    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 64  # the image is among them
    assert "CT" in (answer.choices[0].message.content or "")
    assert "".join(pieces) == answer.choices[0].message.content


def test_nobody_is_served_without_a_key(gateway_url: str) -> None:
    with (
        OpenAI(base_url=gateway_url, api_key="galen_no_key", max_retries=0) as stranger,
        pytest.raises(AuthenticationError),
    ):
        stranger.models.list()


async def test_a_batch_is_done(async_fake_client: AsyncOpenAI) -> None:
    batch_id = await start_batch(async_fake_client, input_of(60, model=FAKE_MODEL))
    batch = await ended_batch(async_fake_client, batch_id, 120.0)

    await check_complete(async_fake_client, batch, 60)


async def test_what_was_used_is_counted(gateway_url: str, api_key: str) -> None:
    headers = {"authorization": f"Bearer {api_key}"}

    async def are_both_counted() -> bool:
        async with httpx.AsyncClient(headers=headers) as http:
            used = (await http.get(f"{gateway_url}/usage")).json()
        return {row["model"] for row in used["data"]} >= {FAKE_MODEL, MINIATURE}

    await eventually(are_both_counted, 20.0, "the use of both models")


def all_secrets(composition: Composition) -> dict[str, str]:
    """By its name, of every secret that `setup` has made; of addresses the password alone."""
    secrets = dict[str, str]()
    for name in composition.compose("run", "--rm", "setup", "show").split():
        secret = composition.compose("run", "--rm", "setup", "show", name)
        if name != "redis/users.acl":  # which holds hashes
            secrets[name] = secret.strip().rpartition("@")[0].rpartition(":")[2] or secret.strip()
    return secrets


def test_no_secret_is_in_what_docker_shows(composition: Composition) -> None:
    secrets = all_secrets(composition)
    shown = {"compose config": composition.compose("config")}
    for service in (*SERVICES, "setup"):
        shown[f"logs of {service}"] = composition.compose("logs", "--no-color", service)
        for container in composition.containers(service):
            shown[f"inspect of {service}"] = json.dumps(inspect(container))

    assert len(secrets) == 10
    assert all(len(secret) == 64 for secret in secrets.values())
    assert all('"Env": ' in shown[f"inspect of {service}"] for service in SERVICES)
    assert "gateway.ready" in shown["logs of gateway"]
    assert [
        f"{name} in {place}"
        for place, text in shown.items()
        for name, secret in secrets.items()
        if secret in text
    ] == []


def test_setup_makes_nothing_twice(composition: Composition) -> None:
    said = composition.compose("run", "--rm", "setup")

    assert "all secrets are there" in said


def test_users_of_redis_may_do_no_more_than_they_need(composition: Composition) -> None:
    def ask(*words: str) -> str:
        login = ("redis-cli", "--user", "worker", "--no-auth-warning", "--pass", password)
        return composition.compose("exec", "-T", "redis", *login, *words, check=False)

    url = composition.compose("run", "--rm", "setup", "show", "worker/galen_worker_redis_url")
    password = url.partition("worker:")[2].partition("@")[0]

    assert ask("HLEN", "galen:workers").strip() == "2"
    for words in (
        ("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("SET", "elsewhere", "1"),
        ("GET", "galen:limit:key"), ("ACL", "LIST"), ("SHUTDOWN",),
    ):  # fmt: skip
        assert "NOPERM" in ask(*words), words
    stranger = composition.compose("exec", "-T", "redis", "redis-cli", "PING", check=False)
    assert "NOAUTH" in stranger


async def test_prometheus_hears_gateway_and_workers(composition: Composition) -> None:
    composition.environment["GALEN_PROMETHEUS_PUBLISH"] = f"127.0.0.1:{free_port()}"
    up = ("up", "--detach", "--no-deps", "prometheus")
    composition.compose(*up, profiles="observability")
    try:
        url = f"http://{composition.environment['GALEN_PROMETHEUS_PUBLISH']}/api/v1/targets"

        async def are_all_heard() -> bool:
            async with httpx.AsyncClient() as http:
                try:
                    targets = (await http.get(url)).json()["data"]["activeTargets"]
                except (httpx.TransportError, ValueError):  # it starts
                    return False
            heard = [each["labels"]["job"] for each in targets if each["health"] == "up"]
            return "gateway" in heard and heard.count("worker") == 1

        await eventually(are_all_heard, 60.0, "targets that answer")
    finally:
        stop = ("rm", "--stop", "--force", "prometheus")
        composition.compose(*stop, profiles="observability")
