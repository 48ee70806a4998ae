"""The chat: questions with images, streamed answers, and what can be done with both."""

import json
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr
import structlog

from services.ui.answering import answer_last
from services.ui.context import Ui
from services.ui.conversation import (
    DISCLAIMER,
    Attachment,
    Conversation,
    as_markdown,
    now,
    shown_messages,
    turn_of_message,
)
from services.ui.feedback_panel import FeedbackPanel
from services.ui.gradio_parts import EMPTY_QUESTION, QUIET, SAFE_CHAT, Given, question_input
from services.ui.image_panel import ImagePanel
from services.ui.model_list import ModelList, context_of

_log = structlog.get_logger()

_PRESS_SAVED = "() => setTimeout(() => document.querySelector('#saved').click(), 100)"
"""The browser fetches a file when its own button is pressed; the file is made first."""
_UNFINISHED = ("waiting", "streaming")
_DEMO = resources.files("modeling") / "demo_model"
_PLACEHOLDER = f"""## Ask about a medical image

Add a picture, DICOM or NIfTI file (drag it here, paste it, or use the paper clip), and ask.
Or begin with one of the drawn scans below.

{DISCLAIMER}"""


class ChatTab:
    """Builds the tab within the current `gr.Blocks`."""

    def __init__(self, ui: Ui) -> None:
        self._ui = ui
        self.conversation = gr.State(Conversation())
        self.sent = gr.State(None)
        with gr.Row(elem_classes="chat"):
            with gr.Column(scale=5, min_width=320):
                self.chat = gr.Chatbot(
                    label="Conversation",
                    elem_id="chat",
                    height="62vh",
                    min_height=320,
                    buttons=["copy", "copy_all"],
                    editable="user",
                    placeholder=_PLACEHOLDER,
                    examples=example_cards(),
                    feedback_options=["Like", "Dislike", "Flag"],
                    **SAFE_CHAT,
                )
                self.input = question_input(
                    "Question",
                    "Ask about the images; add them by the paper clip, paste or drag",
                    "question",
                    autofocus=True,
                )
                with gr.Row(elem_id="chat-buttons"):
                    self.stop = gr.Button("Stop", variant="stop", size="sm", elem_id="stop")
                    self.retry = gr.Button("Retry", size="sm", elem_id="retry")
                    self.undo = gr.Button("Undo", size="sm", elem_id="undo")
                    self.clear = gr.Button("New conversation", size="sm", elem_id="clear")
                    self.save = gr.Button("Save as a file", size="sm", elem_id="save")
                    self.saved = gr.DownloadButton(visible="hidden", elem_id="saved")
                self.feedback = FeedbackPanel(ui, self.chat, self.conversation)
            with gr.Column(scale=2, min_width=280):
                self.models = ModelList()
                self.panel = ImagePanel(ui)
        self._join()

    def _join(self) -> None:
        self.panel.attach(self.input, self.models.model)
        given = {
            self.sent, self.conversation, self.models.model, self.models.system,
            *self.models.parameters,
        }  # fmt: skip
        outputs = [self.chat, self.conversation, self.input]
        running: dict[str, Any] = {
            **QUIET, "concurrency_limit": self._ui.settings.at_once, "concurrency_id": "answers",
        }  # fmt: skip
        # Not the input: what an update leaves out is described anew by Gradio, which costs as much
        # as the rest of it. What was asked is taken in the step that empties the input, and with it
        # the panel: the answer may have to wait for its turn.
        growing = [self.chat, self.conversation]
        sent = self.input.submit(
            self._on_sent,
            {self.input, self.panel.pending, self.conversation},
            [self.input, self.sent],
            **QUIET,
        )
        events: list[Any] = [
            sent.then(self._on_submit, given, growing, **running),
            self.chat.example_select(self._on_example, given, growing, **running),
            self.chat.retry(self._on_retry, given, growing, **running),
            self.chat.edit(self._on_edit, given, growing, **running),
            self.retry.click(self._on_retry_last, given, growing, **running),
        ]
        kept = self.conversation
        # first the end of the answer, then what is shown of it: together they would race
        self.stop.click(None, cancels=events).then(self._on_stop, kept, outputs, **QUIET)
        for trigger in (self.clear.click, self.chat.clear):
            trigger(None, cancels=events).then(self._on_clear, kept, outputs, **QUIET)
        self.chat.undo(self._on_undo, kept, outputs, **QUIET)
        self.undo.click(self._on_undo_last, kept, outputs, **QUIET)
        gr.on(
            [
                self.input.submit, self.chat.example_select, self.chat.retry, self.chat.edit,
                self.retry.click, self.clear.click, self.chat.clear, self.chat.undo,
                self.undo.click,
            ],
            self.feedback.forget,
            None,
            self.feedback.outputs,
            **QUIET,
        )  # fmt: skip
        saving = self.save.click(self._on_save, kept, self.saved, **QUIET)
        saving.then(None, js=_PRESS_SAVED)

    def _on_sent(self, given: Given) -> dict[Any, Any]:
        """Take the question with what was chosen of its images, and empty the input."""
        value = given[self.input] or {}
        question, files = value.get("text") or "", value.get("files") or []
        if not question.strip():
            gr.Info("Write a question; an image alone asks nothing.")
            return {self.sent: None}
        if _is_under_way(given[self.conversation]):
            return {self.sent: None}
        attachments = self.panel.attachments(files, given[self.panel.pending])
        return {self.input: EMPTY_QUESTION, self.sent: (question, attachments)}

    async def _on_submit(self, given: Given, request: gr.Request) -> AsyncGenerator[Any]:
        if given[self.sent] is None:
            yield gr.skip()  # else the chat would get no value at all
            return
        asked = given[self.conversation].asked(*given[self.sent])
        async with aclosing(self._answered(asked, given, request)) as updates:
            async for update in updates:
                yield update

    async def _on_example(
        self, given: Given, chosen: gr.SelectData, request: gr.Request
    ) -> AsyncGenerator[Any]:
        picture, question = shipped_scans()[int(chosen.index)]
        asked = given[self.conversation].asked(question, [Attachment(picture, picture.name)])
        async with aclosing(self._answered(asked, given, request)) as updates:
            async for update in updates:
                yield update

    async def _on_retry(
        self, given: Given, data: gr.RetryData, request: gr.Request
    ) -> AsyncGenerator[Any]:
        index = turn_of_message(_first(data.index))
        async with aclosing(self._asked_again(given, index, None, request)) as updates:
            async for update in updates:
                yield update

    async def _on_retry_last(self, given: Given, request: gr.Request) -> AsyncGenerator[Any]:
        index = len(given[self.conversation].turns) - 1
        async with aclosing(self._asked_again(given, index, None, request)) as updates:
            async for update in updates:
                yield update

    async def _on_edit(
        self, given: Given, data: gr.EditData, request: gr.Request
    ) -> AsyncGenerator[Any]:
        index, question = turn_of_message(_first(data.index)), _text_of(data.value)
        async with aclosing(self._asked_again(given, index, question, request)) as updates:
            async for update in updates:
                yield update

    async def _asked_again(
        self, given: Given, index: int, question: str | None, request: gr.Request
    ) -> AsyncGenerator[Any]:
        """Ask the question of a turn once more, or another one; what came after it is gone."""
        conversation: Conversation = given[self.conversation]
        if not 0 <= index < len(conversation.turns) or _is_under_way(conversation):
            yield gr.skip()
            return
        old = conversation.turns[index]
        text = old.question if question is None else question
        asked = conversation.until(index).asked(text, old.attachments)
        async with aclosing(self._answered(asked, given, request)) as updates:
            async for update in updates:
                yield update

    async def _answered(
        self, asked: Conversation, given: Given, request: gr.Request
    ) -> AsyncGenerator[dict[Any, Any]]:
        """Yield what the chat shows, and the conversation, as the answer grows."""
        session = self._ui.session_of(request)
        served = await self._ui.served_to(session)
        model = given[self.models.model] or ""
        asked = replace(asked, system=given[self.models.system] or "")
        sampling = self.models.sampling_of(given, context_of(served.models, model))
        conversation = asked
        gateway = self._ui.gateways.of(session.key)
        async with aclosing(answer_last(gateway, model, asked, sampling)) as turns:
            async for turn in turns:
                conversation = asked.with_last(turn)
                yield {self.chat: shown_messages(conversation), self.conversation: conversation}
        last = conversation.turns[-1]
        code = last.problem.code if last.problem is not None else None
        _log.info("ui.answer.done", request_id=last.request_id, state=last.state, code=code)

    def _on_stop(self, conversation: Conversation) -> Any:
        if not conversation.turns or conversation.turns[-1].state not in _UNFINISHED:
            return gr.skip()
        stopped = conversation.with_last(replace(conversation.turns[-1], state="stopped"))
        return {self.chat: shown_messages(stopped), self.conversation: stopped}

    def _on_clear(self, conversation: Conversation, request: gr.Request) -> dict[Any, Any]:
        session = self._ui.session_of(request)
        self._ui.sessions.drop_files(session, conversation.files() & session.files)
        return {self.chat: [], self.conversation: Conversation(), self.input: EMPTY_QUESTION}

    def _on_undo(self, conversation: Conversation, data: gr.UndoData) -> Any:
        return self._undone(conversation, turn_of_message(_first(data.index)))

    def _on_undo_last(self, conversation: Conversation) -> Any:
        return self._undone(conversation, len(conversation.turns) - 1)

    def _undone(self, conversation: Conversation, index: int) -> Any:
        """Take a question back into the input, with its images."""
        if not 0 <= index < len(conversation.turns) or _is_under_way(conversation):
            return gr.skip()
        turn, kept = conversation.turns[index], conversation.until(index)
        back = {"text": turn.question, "files": [str(each.file) for each in turn.attachments]}
        return {self.chat: shown_messages(kept), self.conversation: kept, self.input: back}

    def _on_save(self, conversation: Conversation, request: gr.Request) -> str:
        session = self._ui.session_of(request)
        moment = now()
        folder = self._ui.folder / "saved" / secrets.token_hex(16)
        folder.mkdir(parents=True, mode=0o700)
        file = folder / f"galen-{moment:%Y%m%d-%H%M%S}.md"
        file.write_text(as_markdown(conversation, moment), encoding="utf-8")
        self._ui.sessions.keep_file(session, file)
        return str(file)


def shipped_scans() -> list[tuple[Path, str]]:
    """Return the drawn scans that come with Galen, each with another question of its own."""
    told = json.loads((_DEMO / "scans.json").read_text(encoding="utf-8"))
    return [
        (
            Path(str(_DEMO / scan["image"])),
            scan["questions"][number % len(scan["questions"])]["question"],
        )
        for number, scan in enumerate(told["scans"])
    ]


def example_cards() -> list[Any]:
    """Return the cards of the empty chat."""
    return [
        {"text": question, "display_text": question, "files": [str(picture)], "icon": str(picture)}
        for picture, question in shipped_scans()
    ]


def _is_under_way(conversation: Conversation) -> bool:
    """Whether an answer grows; then the page says so."""
    if not conversation.turns or conversation.turns[-1].state not in _UNFINISHED:
        return False
    gr.Info("An answer is under way; press Stop first.")
    return True


def _first(index: int | tuple[int, int]) -> int:
    return index if isinstance(index, int) else index[0]


def _text_of(value: Any) -> str:
    """Return the text of an edited message."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return str(value.get("text") or value.get("content") or "")
    if isinstance(value, Sequence):
        return "\n".join(filter(None, map(_text_of, value)))
    return ""
