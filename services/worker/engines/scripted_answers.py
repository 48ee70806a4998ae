"""A file of answers for the fake engine: what it says to which question.

JSON lines, of which the first that fits is said, a word at a time:

    {"match": "lung|chest", "answer": "The lungs are clear."}

`match` is a regular expression, looked for in the text of the last user message without regard to
case; without it a line fits everything. What does *not* live here: the clock of tokens, and what is
said where no line fits (`fake_engine.py`).
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from services.worker.engines.base import EngineStartError

_WORD = re.compile(r"\S*\s+|\S+$")


@dataclass(frozen=True, slots=True)
class ScriptedAnswers:
    """Answers in the order of their file.

    Args:
        lines: what they fit, and their words, which together are the answer.
    """

    lines: Sequence[tuple[re.Pattern[str], tuple[str, ...]]] = ()

    def words_for(self, question: str) -> tuple[str, ...] | None:
        """Return the words of the first answer that fits; None: none does."""
        for pattern, words in self.lines:
            if pattern.search(question):
                return words
        return None


def read_script(path: Path) -> ScriptedAnswers:
    """Return the answers of a file.

    Raises:
        EngineStartError: it cannot be read, or a line is none; the message names it.
    """
    try:
        texts = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EngineStartError(f"the script {path} cannot be read: {error}") from error
    lines = [
        _line(f"{path} line {number}", text)
        for number, text in enumerate(texts, start=1)
        if text.strip()
    ]
    if not lines:
        raise EngineStartError(f'the script {path} is empty; write {{"answer": "..."}} lines')
    return ScriptedAnswers(lines)


def _line(place: str, text: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise EngineStartError(f"{place} is no JSON") from error
    line = cast("dict[str, object]", found) if isinstance(found, dict) else {}
    match, answer = line.get("match", ""), line.get("answer")
    if not isinstance(match, str) or not isinstance(answer, str) or not answer.strip():
        raise EngineStartError(
            f'{place} is no answer; write {{"match": "a regular expression", "answer": "..."}}'
        )
    try:
        pattern = re.compile(match, re.IGNORECASE)
    except re.error as error:
        raise EngineStartError(f"{place}: `match` is no regular expression ({error})") from error
    return pattern, tuple(_WORD.findall(answer))
