"""The chat in a browser: what a person does there, and what is to be seen."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import (
    Browser,
    BrowserContext,
    FilePayload,
    Locator,
    Page,
    Request,
    expect,
)

from tests.ui.page_stack import PATIENCE_MS

_SIZE = {"width": 1280, "height": 1000}


@dataclass(slots=True)
class ChatPage:
    """One session with its page.

    Args:
        elsewhere: requests of the browser that were for another place than the page's.
        errors: of the page's own code.
    """

    page: Page
    url: str
    elsewhere: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(
        cls, browser: Browser, url: str, model: str = "", **options: Any
    ) -> AsyncIterator["ChatPage"]:
        """Open the page in a context of its own; at the end nothing may have gone elsewhere."""
        context = await browser.new_context(**{"viewport": _SIZE, **options})
        context.set_default_timeout(PATIENCE_MS)
        try:
            chat = await cls.within(context, url)
            await chat.goto(model)
            yield chat
            assert chat.elsewhere == []
            assert chat.errors == []
        finally:
            await context.close()

    @classmethod
    async def within(cls, context: BrowserContext, url: str) -> "ChatPage":
        """Return one more page of a session, which shows nothing yet."""
        chat = cls(await context.new_page(), url)
        own = (f"{url}/", "data:", "blob:")

        def note(asked: Request) -> None:
            if not asked.url.startswith(own):
                chat.elsewhere.append(asked.url)

        def forget_what_was_not_sent(asked: Request) -> None:
            if asked.failure == "csp":
                chat.elsewhere.remove(asked.url)

        chat.page.on("request", note)
        chat.page.on("requestfailed", forget_what_was_not_sent)
        chat.page.on("pageerror", lambda error: chat.errors.append(str(error)))
        return chat

    async def goto(self, model: str = "") -> None:
        """Open it, and wait for the model to be chosen."""
        await self.page.goto(f"{self.url}/?model={model}" if model else self.url)
        await expect(self.state).to_contain_text("ready")

    # --- what is there ---

    @property
    def question(self) -> Locator:
        return self.page.locator("#question textarea")

    @property
    def answers(self) -> Locator:
        return self.page.locator("#chat .message.bot")

    @property
    def asked(self) -> Locator:
        return self.page.locator("#chat .message.user")

    @property
    def state(self) -> Locator:
        return self.page.locator("#model-state")

    @property
    def model(self) -> Locator:
        return self.page.locator("#model input")

    @property
    def seen(self) -> Locator:
        """The picture of what the model sees."""
        return self.page.locator("#seen-picture img")

    @property
    def facts(self) -> Locator:
        return self.page.locator("#seen-facts")

    @property
    def thumbnails(self) -> Locator:
        """Of files that are not sent yet."""
        return self.page.locator("#question [aria-label='File thumbnail']")

    def button(self, name: str) -> Locator:
        """One of ours below the chat."""
        return self.page.locator("#chat-buttons").get_by_role("button", name=name)

    def of_message(self, name: str, nth: int = 0) -> Locator:
        """One of Gradio's at a message."""
        return self.page.locator(f"#chat .message-buttons button[aria-label='{name}']").nth(nth)

    # --- what is done ---

    async def upload(self, *files: str | Path | FilePayload) -> None:
        """Add files to the question, and wait until what the model sees is shown."""
        given: Any = list(files)  # of one kind, which Playwright wants told
        await self.page.set_input_files("#question input[type=file]", given)
        await expect(self.thumbnails).to_have_count(len(files))
        await expect(self.facts).not_to_be_empty()

    async def ask(self, question: str) -> None:
        """Send a question."""
        await self.question.fill(question)
        await self.question.press("Enter")

    async def ask_fully(self, question: str, ending: str) -> None:
        """Send a question and wait for the end of its answer."""
        before = await self.answers.count()
        await self.ask(question)
        await expect(self.answers).to_have_count(before + 1)
        await expect(self.answers.last).to_contain_text(ending)
        await self.rests()

    async def text_of_last(self) -> str:
        """What the last answer says, without what stands at every one."""
        return await self.answers.last.locator(".md").inner_text()

    async def rests(self) -> None:
        """Wait until no answer is under way: Gradio offers what can be done with it."""
        await expect(self.of_message("Retry")).to_be_visible()

    async def open_tab(self, name: str) -> Locator:
        """Turn to a tab, and return what is on it."""
        await self.page.get_by_role("tab", name=name, exact=True).click()
        panel = self.page.get_by_role("tabpanel").filter(visible=True)
        await expect(panel).to_have_count(1)
        return panel

    async def choose(self, label: str, option: str) -> None:
        """Choose from a menu."""
        await self.page.get_by_label(label, exact=True).click()
        await self.page.get_by_role("option", name=option, exact=True).click()


def payload(name: str, kind: str, content: bytes) -> FilePayload:
    """Return a file that is not on disk, for an upload."""
    return {"name": name, "mimeType": kind, "buffer": content}
