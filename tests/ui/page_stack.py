"""A platform with its page as real processes, and the browser that looks at it."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from playwright.async_api import Browser, async_playwright

from tests.support.browser import BROWSER
from tests.support.program import ROOT
from tests.support.stack import Stack
from tests.support.waiting import eventually

MINIATURE = "galen-mini"
OF_MINIATURE = {
    "GALEN_WORKER_MODEL_ID": MINIATURE,
    "GALEN_WORKER_ENGINE": "transformers",
    "GALEN_WORKER_MODEL_PATH": str(ROOT / "modeling" / "demo_model"),
    "GALEN_WORKER_DEVICE": "cpu",
    "GALEN_WORKER_NUM_THREADS": "1",
}
"""Settings of a worker that serves the shipped model."""
PATIENCE_MS = 45_000
SLOTS, MOST_WAITING = 4, 4
"""Of each worker, and of the queue: few, so that a test can fill them."""
_START_LIMIT_S = 40.0
_WATCHED = "tests.ui.watched_connections"


@dataclass(frozen=True, slots=True)
class PageStack:
    """A platform with its page.

    Args:
        url: of the page.
        uploads: where the page keeps files of its sessions.
        connections: file that names what the page's process has connected to.
    """

    stack: Stack
    url: str
    uploads: Path
    connections: Path

    @property
    def store(self) -> Path:
        """Where the gateway's database is."""
        return self.stack.folder / "store"

    def uploaded(self, name: str) -> list[Path]:
        """Files of this name that the page has on disk."""
        return [each for each in self.uploads.rglob(name) if each.is_file()]


@contextlib.asynccontextmanager
async def page_stack(
    folder: Path,
    *,
    num_workers: int = 2,
    with_miniature: bool = False,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[PageStack]:
    """A gateway, workers with the fake engine, and the page, which answers.

    Args:
        with_miniature: a worker with the shipped model, and one for evaluations, too.
    """
    stack = Stack(folder, num_workers=num_workers, durable=False, settings=settings or {})
    async with stack:
        if with_miniature:
            stack.add_worker("miniature", **OF_MINIATURE)
            stack.add_jobs("jobs")
        uploads, connections = folder / "uploads", folder / "connections"
        uploads.mkdir()
        connections.touch()
        url = stack.add_page(
            (_WATCHED, str(connections), "services.ui.main"), GALEN_UI_TEMP_DIR=str(uploads)
        )
        await stack.healthy()
        await answers(url)
        yield PageStack(stack, url, uploads, connections)


async def answers(url: str) -> None:
    """Wait until a page serves."""

    async def is_up() -> bool:
        async with httpx.AsyncClient(verify=False) as http:
            try:
                return (await http.get(f"{url}/healthz")).status_code == 200
            except httpx.TransportError:
                return False

    await eventually(is_up, _START_LIMIT_S, "the page")


@contextlib.asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """The system's own Chromium."""
    assert BROWSER is not None
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            await browser.close()
