"""Measures the page: its first paint, its first streamed token, and many sessions at once.

Run: python -m benchmarks.page --help
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import psutil
import typer
from openai import AsyncOpenAI
from playwright.async_api import Browser, expect

from benchmarks.page_clients import PageClient, Visit
from benchmarks.page_sections import MeasuredSection, goal_row
from benchmarks.processes import BenchError
from tests.support.stack import MODEL
from tests.ui.chat_page import ChatPage
from tests.ui.page_stack import PageStack, open_browser, page_stack

SLOTS = 32
PAINT_GOAL_S, TOKEN_GOAL_S, MOST_SLOWER = 2.0, 0.3, 2.0
FIRST = "[[n=30 t=300 d=50]]"
LONG, ENDING = "[[n=100 d=30]]", "zq0099"
_PAINT = """() => new Promise((done) => new PerformanceObserver((list) => {
  const found = list.getEntriesByName("first-contentful-paint");
  if (found.length) done(found[0].startTime);
}).observe({type: "paint", buffered: true}))"""
_WATCH = """(first) => {
  window.seen = {};
  addEventListener("keydown", (event) => {
    if (event.key === "Enter") window.seen = {began: performance.now()};
  }, {capture: true});
  new MutationObserver(() => {
    const answers = document.querySelectorAll("#chat .message.bot");
    const text = answers.length > window.before ? answers[answers.length - 1].textContent : "";
    if (!window.seen.first && text.includes(first)) window.seen.first = performance.now();
    if (!window.seen.last && text.includes(window.last)) window.seen.last = performance.now();
  }).observe(document.body, {childList: true, subtree: true, characterData: true});
}"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


async def _paints(browser: Browser, url: str, rounds: int) -> tuple[list[float], list[float]]:
    """Return seconds to the first paint, and to a page that can be used; caches are empty."""
    paints: list[float] = []
    usable: list[float] = []
    for _ in range(rounds):
        context = await browser.new_context()
        page = await context.new_page()
        began = time.monotonic()
        await page.goto(url, wait_until="commit")
        paints.append(await page.evaluate(_PAINT) / 1e3)
        await expect(page.locator("#model-state")).to_contain_text("ready")
        usable.append(time.monotonic() - began)
        await context.close()
    return paints, usable


async def _gateway_first(port: int, question: str) -> float:
    """Return the seconds until the gateway's first token is at a client of the SDK."""
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none") as client:
        await client.models.list()  # the connection is there, as the page's is
        began = time.monotonic()
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": question}], stream=True
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                await stream.close()
                return time.monotonic() - began
    raise BenchError("the gateway's answer was empty")


async def _asked(chat: ChatPage, question: str, ending: str) -> Visit:
    """Ask in a browser; times are those of its own clock, from the key to the text on the page."""
    await chat.question.fill(question)
    before = await chat.answers.count()
    await chat.page.evaluate(
        "(told) => Object.assign(window, told)", {"before": before, "last": ending}
    )
    await chat.question.press("Enter")
    seen = await chat.page.wait_for_function(
        "() => window.seen.last && window.seen", timeout=60_000
    )
    times = await seen.json_value()
    await chat.rests()
    return Visit((times["first"] - times["began"]) / 1e3, (times["last"] - times["began"]) / 1e3)


async def _first_tokens(
    chat: ChatPage, platform: PageStack, rounds: int
) -> tuple[list[float], list[float]]:
    """Return seconds to the first token, at the gateway's client and in the page, by turns."""
    gateway: list[float] = []
    page: list[float] = []
    for _ in range(rounds):
        gateway.append(await _gateway_first(platform.stack.port, FIRST))
        page.append((await _asked(chat, FIRST, "zq0029")).first_s)
    return gateway, page


async def _together(
    chat: ChatPage, platform: PageStack, sessions: int, rounds: int
) -> tuple[Visit, Visit, list[Visit], Visit]:
    """Return client and browser alone (medians), then all clients and the browser together."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(PageClient(platform.url, MODEL))
            for _ in range(sessions - 1)
        ]
        for each in clients:  # what a page that is opened makes the server prepare
            await each.ask("[[n=1]]", "zq0000")
        client = await _median(lambda: clients[0].ask(LONG, ENDING), rounds)
        browser = await _median(lambda: _asked(chat, LONG, ENDING), rounds)
        *others, seen = await asyncio.gather(
            *(each.ask(LONG, ENDING) for each in clients), _asked(chat, LONG, ENDING)
        )
    return client, browser, others, seen


async def _median(ask: Callable[[], Awaitable[Visit]], rounds: int) -> Visit:
    visits = [await ask() for _ in range(rounds)]
    return Visit(
        statistics.median(each.first_s for each in visits),
        statistics.median(each.total_s for each in visits),
    )


async def _measure(rounds: int, sessions: int) -> list[list[str]]:
    expect.set_options(timeout=60_000)
    settings = {"GALEN_WORKER_SLOTS": str(SLOTS)}
    with tempfile.TemporaryDirectory(prefix="galen-page-") as folder:
        async with (
            page_stack(Path(folder), num_workers=1, settings=settings) as platform,
            open_browser() as browser,
        ):
            paints, usable = await _paints(browser, platform.url, rounds)
            async with ChatPage.opened(browser, platform.url, MODEL) as chat:
                await chat.page.evaluate(_WATCH, "zq0000")
                gateway, page = await _first_tokens(chat, platform, rounds)
                together = await _together(chat, platform, sessions, rounds)
    return _rows(paints, usable, gateway, page) + _rows_together(*together)


def _rows(
    paints: Sequence[float],
    usable: Sequence[float],
    gateway: Sequence[float],
    page: Sequence[float],
) -> list[list[str]]:
    paint, at_gateway, in_page = map(statistics.median, (paints, gateway, page))
    later = in_page - at_gateway
    return [
        goal_row(
            f"first paint, empty cache ({min(paints):.2f} to {max(paints):.2f} s)",
            f"{paint:.2f} s", f"<= {PAINT_GOAL_S:g} s", paint <= PAINT_GOAL_S,
        ),
        goal_row("until the page can be used", f"{statistics.median(usable):.2f} s", "", None),
        goal_row(
            f"first token in the page after the gateway's ({at_gateway * 1e3:.0f} ms)",
            f"{later * 1e3:.0f} ms", f"<= {TOKEN_GOAL_S * 1e3:.0f} ms", later <= TOKEN_GOAL_S,
        ),
    ]  # fmt: skip


def _rows_together(
    client: Visit, browser: Visit, others: Sequence[Visit], seen: Visit
) -> list[list[str]]:
    slowest = max(each.total_s for each in others)
    goal = f"<= {MOST_SLOWER:g} x alone"
    return [
        goal_row(
            f"{len(others) + 1} sessions at once, slowest client (alone {client.total_s:.2f} s)",
            f"{slowest:.2f} s, {slowest / client.total_s:.2f} x", goal,
            slowest <= MOST_SLOWER * client.total_s,
        ),
        goal_row(
            f"among them the browser (alone {browser.total_s:.2f} s)",
            f"{seen.total_s:.2f} s, {seen.total_s / browser.total_s:.2f} x", goal,
            seen.total_s <= MOST_SLOWER * browser.total_s,
        ),
        goal_row(
            f"first text of the slowest (alone {client.first_s * 1e3:.0f} ms)",
            f"{max(each.first_s for each in others) * 1e3:.0f} ms", "", None,
        ),
    ]  # fmt: skip


@app.command()
def bench(
    *,
    rounds: Annotated[int, typer.Option(min=1, help="Repetitions; medians are told.")] = 5,
    sessions: Annotated[int, typer.Option(min=2, help="At once; one is the browser.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Page that gets the section.")] = None,
) -> None:
    """Measure the page on the fake engine; prints a section of Markdown.

    For example:

    python -m benchmarks.page --out docs/benchmarks.md
    """
    load_before = psutil.getloadavg()[0]
    rows = asyncio.run(_measure(rounds, sessions))
    what_ran = (
        "The page, one gateway and one worker with the fake engine; headless Chromium and, for "
        f"{sessions} sessions,",
        f"{sessions - 1} clients that send what Gradio's script does. First token: `{FIRST}`, "
        f"by turns; sessions: `{LONG}`.",
    )
    MeasuredSection("page", "The page", what_ran, rows, load_before).publish(out)


if __name__ == "__main__":
    app()
