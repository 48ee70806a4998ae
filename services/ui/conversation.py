"""A conversation as the page keeps it, and as models and people see it. Pure.

What does *not* live here: asking (`answering.py`), showing (`chat_tab.py`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from openai.types.chat import ChatCompletionMessageParam

from services.ui.problems import Problem

DISCLAIMER = "Research use only, not for clinical decisions."
State = Literal["waiting", "streaming", "complete", "stopped", "failed"]
_CODE = re.compile(
    r"(```.*?(?:```|\Z)|^ {0,3}~~~.*?(?:^ {0,3}~~~|\Z)|`[^`\n]*`)", re.DOTALL | re.MULTILINE
)
_DRAWN = re.compile(r"\A( {0,3}(?:`{3,}|~{3,})[ \t]*)mermaid\b", re.IGNORECASE)
_TAG = re.compile(r"<(?=[A-Za-z/!?])")


@dataclass(frozen=True, slots=True)
class Attachment:
    """An image of a question.

    Args:
        file: what was uploaded, and what is sent.
        name: its own name, for its owner's eyes only.
        preprocess: choices for DICOM and NIfTI, as the API has them.
        shown: a picture that a browser can show; None: the file itself is one.
    """

    file: Path
    name: str
    preprocess: Mapping[str, Any] = field(default_factory=dict[str, Any])
    shown: Path | None = None

    @property
    def picture(self) -> Path:
        """What a browser shows of it."""
        return self.shown or self.file


@dataclass(frozen=True, slots=True)
class Turn:
    """A question with its answer.

    Args:
        request_id: of the answer, for votes; "": there was none.
        model: that answered.
    """

    question: str
    attachments: tuple[Attachment, ...] = ()
    answer: str = ""
    state: State = "waiting"
    model: str = ""
    request_id: str = ""
    finish_reason: str = ""
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns, the last of which may be under way."""

    turns: tuple[Turn, ...] = ()
    system: str = ""

    def asked(self, question: str, attachments: Sequence[Attachment]) -> "Conversation":
        """Return it with one more question."""
        return replace(self, turns=(*self.turns, Turn(question, tuple(attachments))))

    def with_last(self, turn: Turn) -> "Conversation":
        """Return it with another last turn."""
        return replace(self, turns=(*self.turns[:-1], turn))

    def until(self, index: int) -> "Conversation":
        """Return its first turns."""
        return replace(self, turns=self.turns[:index])

    def files(self) -> set[Path]:
        """Return all files that it shows or sends."""
        attachments = [each for turn in self.turns for each in turn.attachments]
        return {file for each in attachments for file in (each.file, each.picture)}


def sent_messages(
    conversation: Conversation, urls: Mapping[Path, str]
) -> list[ChatCompletionMessageParam]:
    """Return a conversation as the API takes it; an answer that never came is left out.

    Args:
        urls: of the files, as `data:` URLs.
    """
    messages: list[Any] = []
    if conversation.system.strip():
        messages.append({"role": "system", "content": conversation.system})
    for turn in conversation.turns:
        is_last = turn is conversation.turns[-1]
        if not is_last and not turn.answer:
            continue  # a question without an answer would make two questions in a row
        messages.append({"role": "user", "content": _parts(turn, urls)})
        if not is_last:
            messages.append({"role": "assistant", "content": turn.answer})
    return cast("list[ChatCompletionMessageParam]", messages)


def _parts(turn: Turn, urls: Mapping[Path, str]) -> str | list[dict[str, Any]]:
    if not turn.attachments:
        return turn.question
    images = [
        {"type": "image_url", "image_url": image_url(each, urls)} for each in turn.attachments
    ]
    return [*images, {"type": "text", "text": turn.question}]


def image_url(attachment: Attachment, urls: Mapping[Path, str]) -> dict[str, Any]:
    """Return an image as the API takes it."""
    found: dict[str, Any] = {"url": urls[attachment.file]}
    if attachment.preprocess:
        found["preprocess"] = dict(attachment.preprocess)
    return found


def shown_messages(conversation: Conversation) -> list[dict[str, Any]]:
    """Return a conversation as Gradio's chat shows it: two messages a turn."""
    messages: list[dict[str, Any]] = []
    for turn in conversation.turns:
        pictures = [
            {"path": str(each.picture), "alt_text": f"image: {each.name}"}
            for each in turn.attachments
        ]
        content: list[Any] = [*pictures, harmless(turn.question)]
        messages.append({"role": "user", "content": content})
        if turn.state != "waiting":
            messages.append({"role": "assistant", "content": shown_answer(turn)})
    return messages


def shown_answer(turn: Turn) -> str:
    """Return an answer with what there is to say about it."""
    text = harmless(turn.answer)
    if ending := _ending(turn):
        text += f"\n\n*{ending}*"
    if turn.problem is not None:
        text += f"\n\n**{harmless(turn.problem.text())}**"
    return text.strip() or ("..." if turn.state == "streaming" else "*An empty answer.*")


def _ending(turn: Turn) -> str:
    """Return why an answer is not whole though nothing went wrong; "": it is."""
    if turn.state == "stopped":
        return "Stopped."
    if turn.finish_reason == "length":
        return "Cut at the longest answer; raise it under Parameters."
    return ""


def harmless(text: str) -> str:
    """Return Markdown in which tags are text, whatever a model writes; code stays as it is.

    Code that Gradio would draw as a diagram is shown as code.
    """
    pieces = _CODE.split(text)
    return "".join(
        _DRAWN.sub(r"\1text", piece) if number % 2 else _TAG.sub("&lt;", piece)
        for number, piece in enumerate(pieces)
    )


def turn_of_message(index: int) -> int:
    """Return which turn a message of `shown_messages` belongs to."""
    return index // 2


def as_markdown(conversation: Conversation, moment: datetime) -> str:
    """Return a conversation as a file to keep or to hand on; images by name only."""
    lines = ["# Conversation with Galen", "", f"{moment:%Y-%m-%d %H:%M} UTC. {DISCLAIMER}", ""]
    if conversation.system.strip():
        lines += ["**System prompt:** " + conversation.system, ""]
    for turn in conversation.turns:
        names = ", ".join(_described(each) for each in turn.attachments)
        lines += [
            "## Question",
            "",
            *([f"Images: {names}", ""] if names else []),
            turn.question,
            "",
        ]
        lines += [f"## Answer of {turn.model or 'no model'}", "", turn.answer or "(none)", ""]
        if ending := _ending(turn):
            lines += [f"> {ending}", ""]
        if turn.problem is not None:
            lines += [f"> {turn.problem.text()}", ""]
    return "\n".join(lines)


def _described(attachment: Attachment) -> str:
    choices = json.dumps(dict(attachment.preprocess)) if attachment.preprocess else ""
    return f"{attachment.name} {choices}".strip()


def now() -> datetime:
    """Return the time that a file of a conversation bears."""
    return datetime.now(UTC)
