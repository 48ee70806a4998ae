"""The question that `galen up` asks once it is ready, and how to ask it again from a shell."""

from dataclasses import dataclass
from pathlib import Path

from services.launcher.demo_files import DEMO_MODEL_ID, demo_scan
from services.launcher.image_files import image_mime
from services.launcher.pasted_commands import ask_command, curl_command
from services.launcher.terminal import CommandError, Terminal

CLIENT_MODULE = "services.launcher.chat"
"""Loads the OpenAI client, which takes a second."""

_MAX_TOKENS = 64


@dataclass(frozen=True, slots=True)
class FirstQuestion:
    """What to ask whom; `right_answer` is empty where it is not known.

    Args:
        key: None: none is asked for.
    """

    url: str
    model_id: str
    image: Path
    text: str
    right_answer: str = ""
    key: str | None = None


def first_question(
    url: str, model_id: str, image: Path | None, text: str | None, key: str | None
) -> FirstQuestion:
    """Return the question to ask; without an image, it is about a scan that ships with Galen."""
    scan = demo_scan()
    text = text or scan.question
    if image is not None:
        return FirstQuestion(url, model_id, image.resolve(), text, key=key)
    is_known = model_id == DEMO_MODEL_ID and text == scan.question
    return FirstQuestion(url, model_id, scan.image, text, scan.answer if is_known else "", key)


async def print_answer(terminal: Terminal, first: FirstQuestion) -> None:
    """Ask through the official client, and print the answer as it comes.

    Raises:
        CommandError: there is no answer.
    """
    from services.launcher import chat  # noqa: PLC0415 - see CLIENT_MODULE

    question = chat.Question(
        first.text, (str(first.image),), first.model_id, max_tokens=_MAX_TOKENS, temperature=0.0
    )
    terminal.result(f"\n{first.text}  ({first.image})", "bold")
    pieces = chat.answer_pieces(first.url, question, stream=True, key=first.key)
    if not await terminal.answer(pieces):
        raise CommandError("the answer is empty")
    if first.right_answer:
        terminal.result(f"(Drawn: {first.right_answer})", "dim")


def print_commands(terminal: Terminal, first: FirstQuestion, *, is_only_model: bool) -> None:
    """Print two ways to ask; a model that others stand beside is named."""
    model = None if is_only_model else first.model_id
    terminal.result("\nAsk it yourself:", "bold")
    terminal.result(ask_command(first.url, model, first.image, first.text, first.key))
    terminal.result("\nor with nothing but curl (bash):", "bold")
    mime = image_mime(first.image)
    terminal.result(
        curl_command(first.url, first.model_id, first.image, mime, first.text, first.key)
    )
