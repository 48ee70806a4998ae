"""One project for all tests here: built once, brought up once, brought down at the end."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI
from playwright.async_api import Browser, expect

from tests.compose.composition import SERVICES, Composition, folder_of_logs, has_docker
from tests.ui.page_stack import PATIENCE_MS, open_browser

expect.set_options(timeout=PATIENCE_MS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What breaks the platform comes after what asks it; the images that it needs not come last."""
    order = (
        *("test_sdk", "test_work", "test_page", "test_documents", "test_changes", "test_faults"),
        *("test_backup", "test_images"),
    )
    here = [item for item in items if item.nodeid.startswith("tests/compose/")]
    places = {item: i for i, item in enumerate(items) if item in here}

    def place(item: pytest.Item) -> int:
        name = item.nodeid.rpartition("/")[2].partition(".py")[0]
        return order.index(name) if name in order else len(order)

    for spot, item in zip(sorted(places.values()), sorted(here, key=place), strict=True):
        items[spot] = item


@pytest.fixture(scope="session")
def built() -> Composition:
    """The platform's images, built as docker-compose.yml says."""
    assert has_docker(), "no Docker engine answers: run `make compose-test`, which looks for one"
    composition = Composition()
    composition.build()
    return composition


@pytest.fixture(scope="session")
def composition(built: Composition) -> Iterator[Composition]:
    """The platform, up and healthy."""
    built.down()  # what an earlier run left
    try:
        built.up()
        yield built
    finally:
        for service in SERVICES:
            (folder_of_logs() / f"{service}.log").write_text(built.logs(service), "utf-8")
        built.down()


@pytest.fixture(scope="session")
def api_key(composition: Composition) -> str:
    """A key as a user makes the first one."""
    return composition.galen("keys", "create", "compose-test")


@pytest.fixture(scope="session")
def gateway_url(composition: Composition) -> str:
    return composition.gateway_url()


@pytest.fixture(scope="session")
def fake_client(gateway_url: str, api_key: str) -> Iterator[OpenAI]:
    """The unmodified SDK, without retries of its own."""
    with OpenAI(base_url=gateway_url, api_key=api_key, max_retries=0, timeout=120.0) as client:
        yield client


@pytest_asyncio.fixture
async def async_fake_client(gateway_url: str, api_key: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(
        base_url=gateway_url, api_key=api_key, max_retries=0, timeout=120.0
    ) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with open_browser() as browser:
        yield browser
