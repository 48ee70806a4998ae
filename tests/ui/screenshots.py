"""Pictures of each tab for the docs: light and dark, wide and narrow, of a page that was used.

    make screenshots

The platform, with the miniature, and the browser are those of the tests. What does *not* live
here: judging them; look at them before you commit them.
"""

import asyncio
import io
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from PIL import Image
from playwright.async_api import Page, expect

from tests.end_to_end.keys import ADMIN_KEY
from tests.support.program import ROOT
from tests.ui.chat_page import ChatPage
from tests.ui.page_stack import (
    MINIATURE,
    OF_MINIATURE,
    PageStack,
    answers,
    open_browser,
    page_stack,
)

WIDTHS = {"wide": 1280, "narrow": 390}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
HEIGHT = 900
MOST_BYTES = 200_000
_CT = ROOT / "modeling" / "demo_model" / "ct.png"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


async def use_chat(chat: ChatPage) -> None:
    """Ask about an example, and have the next picture ready."""
    await chat.page.locator("#chat .example").first.click()
    await expect(chat.answers).to_contain_text("CT")
    await chat.upload(_CT)
    await chat.question.fill("Are there any lesions?")


async def use_comparison(chat: ChatPage) -> None:
    """Compare the miniature with itself."""
    panel = await chat.open_tab("Compare")
    await chat.page.set_input_files("#compare-question input[type=file]", _CT)
    await expect(panel.locator("#compare-seen-picture img")).to_be_visible()
    question = panel.locator("#compare-question textarea")
    await question.fill("Which organ is shown?")
    await question.press("Enter")
    await panel.get_by_role("button", name="A is better").click()
    await expect(panel.locator("#compare-names")).to_contain_text("Your vote was kept")


async def use_evaluation(chat: ChatPage) -> None:
    """Run the drawn scans to their scores."""
    panel = await chat.open_tab("Evaluation")
    await expect(panel.locator("#evaluation-about")).to_contain_text("questions.")
    await panel.get_by_role("button", name="Start", exact=True).click()
    progress = panel.locator("#evaluation-progress")
    await expect(progress).to_contain_text("Done.", timeout=120_000)
    await expect(panel.locator("#evaluation-scores svg")).to_be_visible()


async def use_status(chat: ChatPage) -> None:
    """Wait for the second reading, which has rates."""
    panel = await chat.open_tab("Status")
    await expect(panel.locator("#status-rates")).to_contain_text(MINIATURE)


USES = {
    "Chat": use_chat,
    "Compare": use_comparison,
    "Evaluation": use_evaluation,
    "Status": use_status,
}


async def take(page: Page, name: str, out: Path) -> None:
    """Write a picture of what the page shows in each way."""
    for size, width in WIDTHS.items():
        await page.set_viewport_size({"width": width, "height": HEIGHT})
        for scheme in SCHEMES:
            await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            picture = await page.screenshot(full_page=True, animations="disabled")
            file = out / f"page-{name.lower()}-{size}-{scheme}.png"
            _write(picture, file)
            typer.echo(f"{file} {file.stat().st_size // 1000} kB")
    await page.set_viewport_size({"width": WIDTHS["wide"], "height": HEIGHT})


def _write(picture: bytes, file: Path) -> None:
    """Write a picture with a palette: a fifth of its size, and no eye sees it."""
    with Image.open(io.BytesIO(picture)) as image:
        colours = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    colours.save(file, optimize=True)
    if file.stat().st_size > MOST_BYTES:
        raise SystemExit(f"{file} has more than {MOST_BYTES} bytes")


@asynccontextmanager
async def _platform() -> AsyncIterator[PageStack]:
    keys = {"GALEN_GATEWAY_ADMIN_KEY": ADMIN_KEY, "GALEN_UI_ADMIN_KEY": ADMIN_KEY}
    with tempfile.TemporaryDirectory(prefix="galen-shots-") as folder:
        async with page_stack(
            Path(folder), num_workers=1, settings={**OF_MINIATURE, **keys}
        ) as platform:
            platform.stack.add_jobs("jobs")
            yield platform


async def _run(out: Path) -> None:
    expect.set_options(timeout=30_000)
    async with _platform() as platform, open_browser() as browser:
        async with ChatPage.opened(browser, platform.url, MINIATURE) as chat:
            for name, use in USES.items():
                await use(chat)
                await take(chat.page, name, out)
        locked = platform.stack.add_page(GALEN_UI_LOGIN="required")
        await answers(locked)
        page = await browser.new_page()
        await page.goto(locked)
        await take(page, "Login", out)


@app.command()
def screenshots(
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = ROOT / "docs" / "images",
) -> None:
    """Write page-TAB-SIZE-SCHEME.png for every tab and the login."""
    out.mkdir(parents=True, exist_ok=True)
    asyncio.run(_run(out))


if __name__ == "__main__":
    app()
