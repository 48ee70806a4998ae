"""Gateway, worker and job worker do all their work with the rights that the chart gives each."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from deploy.compose.setup_secrets import ACL_RULES
from tests.deploy.chart import Manifests
from tests.deploy.test_chart_redis import config_of
from tests.support.batches import check_complete, ended_batch, input_of, start_batch
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform(
    tmp_path_factory: pytest.TempPathFactory, rendered: dict[str, Manifests]
) -> AsyncIterator[Stack]:
    """A platform whose services are each a user of Redis; the tests look on as another."""
    async with Stack(tmp_path_factory.mktemp("rights"), num_workers=0, num_gateways=0) as stack:
        rules = config_of(rendered["defaults"])["users.acl"]
        for user in ACL_RULES:
            rules = rules.replace(f"#SHA256_OF_{user} ", f">of-{user} ")
        for line in rules.splitlines():
            _, user, *words = line.split()
            if user in ACL_RULES:
                stack.redis.execute_command("ACL", "SETUSER", user, "reset", *words)
        stack.settings = {
            f"GALEN_{user.upper()}_REDIS_URL": stack.redis_url.replace("//", f"//{user}:of-{user}@")
            for user in ACL_RULES
        }
        stack.add_worker("w0")
        stack.add_gateway("g0")
        stack.add_jobs("jobs")
        await stack.healthy()
        yield stack


def refused(stack: Stack) -> set[tuple[str, str]]:
    """Return who was refused which command."""
    found = {(each["username"], each["object"]) for each in stack.redis.acl_log()}
    # redis-py tells its own name, and minds no refusal; servers before 7.2 refuse it
    return {each for each in found if each[1] != "client"}


async def test_services_need_no_right_that_they_have_not(platform: Stack) -> None:
    url = f"http://127.0.0.1:{platform.port}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none") as sdk:
        batch = await ended_batch(sdk, await start_batch(sdk, input_of(30)), 60)
        await check_complete(sdk, batch, 30)

    users = {each["user"] for each in platform.redis.client_list()}
    assert users >= ACL_RULES.keys()
    assert refused(platform) == set()


async def test_a_worker_s_loss_is_mended_with_these_rights(platform: Stack) -> None:
    platform.kill_worker(platform.workers.pop())
    platform.add_worker("w1")
    await platform.healthy()

    url = f"http://127.0.0.1:{platform.port}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none") as sdk:
        answer = await sdk.chat.completions.create(
            model="fake", messages=[{"role": "user", "content": "[[n=5]] a"}]
        )
    assert answer.choices[0].finish_reason
    assert refused(platform) == set()


async def test_what_is_refused_would_be_seen(platform: Stack) -> None:
    """The control: `ACL LOG` has what a service may not do."""
    client = platform.redis
    client.execute_command("ACL", "SETUSER", "worker", "-hset")
    try:
        platform.kill_worker(platform.workers.pop())
        platform.add_worker("w2")
        await eventually(lambda: refused(platform), 20, "a refusal")
        assert refused(platform) == {("worker", "hset")}
    finally:
        client.acl_log_reset()
