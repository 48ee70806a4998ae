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
_EMPTIED = "() => ({text: '', files: []})"
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
        self.asked = gr.State("")
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
        kept = self.conversation
        begun = [self.chat, kept, self.asked, *self.feedback.outputs]
        self.input.submit(
            self._on_submit, {self.input, self.panel.pending, kept}, [self.input, *begun], **QUIET
        )
        self.chat.example_select(self._on_example, kept, begun, **QUIET)
        self.chat.retry(self._on_retry, kept, begun, **QUIET)
        self.chat.edit(self._on_edit, kept, begun, **QUIET)
        self.retry.click(self._on_retry_last, kept, begun, **QUIET)
        # Not the input: what an update leaves out is described anew by Gradio, which costs as much
        # as the rest of it, and takes the focus.
        growing = [self.chat, kept]
        answering: Any = self.asked.change(
            self._on_asked,
            {kept, self.models.model, self.models.system, *self.models.parameters},
            growing,
            # "once" would lose a question that comes before the browser knows of a stop
            trigger_mode="multiple",
            concurrency_limit=self._ui.settings.at_once,
            concurrency_id="answers",
            **QUIET,
        )
        # first the end of the answer, then what is shown of it: together they would race
        self.stop.click(None, cancels=answering).then(self._on_stop, kept, growing, **QUIET)
        for trigger in (self.clear.click, self.chat.clear):
            # the browser empties the input at once: what is typed after that is kept
            trigger(None, None, self.input, js=_EMPTIED, cancels=answering).then(
                self._on_clear, kept, [*growing, *self.feedback.outputs], **QUIET
            )
        undone = [*growing, self.input, *self.feedback.outputs]
        self.chat.undo(self._on_undo, kept, undone, **QUIET)
        self.undo.click(self._on_undo_last, kept, undone, **QUIET)
        saving = self.save.click(self._on_save, kept, self.saved, **QUIET)
        saving.then(None, js=_PRESS_SAVED)

    def _on_submit(self, given: Given) -> Any:
        """Take the question with what was chosen of its images, and empty the input."""
        value = given[self.input] or {}
        question, files = value.get("text") or "", value.get("files") or []
        conversation: Conversation = given[self.conversation]
        if not question.strip():
            gr.Info("Write a question; an image alone asks nothing.")
            return gr.skip()
        if _is_under_way(conversation):
            return gr.skip()
        attachments = self.panel.attachments(files, given[self.panel.pending])
        begun = self._begun(conversation.asked(question, attachments))
        return {self.input: EMPTY_QUESTION, **begun}

    def _on_example(self, conversation: Conversation, chosen: gr.SelectData) -> Any:
        if _is_under_way(conversation):
            return gr.skip()
        picture, question = shipped_scans()[int(chosen.index)]
        return self._begun(conversation.asked(question, [Attachment(picture, picture.name)]))

    def _on_retry(self, conversation: Conversation, data: gr.RetryData) -> Any:
        return self._asked_again(conversation, turn_of_message(_first(data.index)), None)

    def _on_retry_last(self, conversation: Conversation) -> Any:
        return self._asked_again(conversation, len(conversation.turns) - 1, None)

    def _on_edit(self, conversation: Conversation, data: gr.EditData) -> Any:
        index, question = turn_of_message(_first(data.index)), _text_of(data.value)
        return self._asked_again(conversation, index, question)

    def _asked_again(self, conversation: Conversation, index: int, question: str | None) -> Any:
        """Ask the question of a turn once more, or another one; what came after it is gone."""
        if not 0 <= index < len(conversation.turns) or _is_under_way(conversation):
            return gr.skip()
        old = conversation.turns[index]
        text = old.question if question is None else question
        return self._begun(conversation.until(index).asked(text, old.attachments))

    def _begun(self, asked: Conversation) -> dict[Any, Any]:
        """Keep a question as one that waits for its answer, and have it answered.

        The answer may have to wait for its turn; what is asked meanwhile finds this one.
        """
        return {
            self.chat: shown_messages(asked),
            self.conversation: asked,
            self.asked: secrets.token_hex(8),
            **self.feedback.forget(),
        }

    async def _on_asked(self, given: Given, request: gr.Request) -> AsyncGenerator[Any]:
        """Show the answer, and keep the conversation, as it grows."""
        asked: Conversation = given[self.conversation]
        if not asked.turns or asked.turns[-1].state != "waiting":
            yield gr.skip()  # it was stopped meanwhile
            return
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
        return {self.chat: [], self.conversation: Conversation(), **self.feedback.forget()}

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
        shown = {self.chat: shown_messages(kept), self.conversation: kept, self.input: back}
        return {**shown, **self.feedback.forget()}

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
