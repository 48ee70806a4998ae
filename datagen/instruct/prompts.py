"""What a model is asked: a conversation about a figure of which it knows the text alone.

The wording is ours, after what LLaVA-Med asks for (arXiv:2306.00890, section 3.1): the model writes
as if both sides saw the figure, keeps to what can be seen, and names no source. A change of the
wording or of the examples is another version. What does *not* live here: replies (`replies.py`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datagen.figures import Figure
from datagen.instruct.examples import EXAMPLES, Turn

VERSION = "instruct-v1"
_TASK = (
    "You know biomedical images well. You are given the caption of a figure from a biomedical "
    "article, sometimes with sentences in which the article speaks of it. You cannot see the "
    "figure itself. Write a conversation between a User who asks about the figure and an Assistant "
    "who answers, as though both were looking at it.\n"
    "\n"
    "Keep to these rules:\n"
    "- Ask and answer about what can be seen: the kind of image, the part of the body, organs, "
    "positions, shapes, colours, densities, findings that are visible.\n"
    "- Take nothing over that only the text can know: names, dates, doses, measurements, numbers "
    "of patients, results of other tests, abbreviations that the figure does not explain.\n"
    "- Never speak of a caption, a text, a context, a description, or of what is mentioned. Where "
    "a source is needed, it is the image.\n"
    "- Do not make up findings. Where the text leaves open what is visible, ask something else.\n"
    "- Vary the questions, in their kind and in their words. Write three rounds, or two where the "
    "text says very little.\n"
    "- Answer with care: give no medical advice, and where a diagnosis or a decision is asked for, "
    "say that a professional has to judge.\n"
)
_AS_TEXT = (
    "\n"
    "Write the conversation alone. Begin each question with `User: ` and each answer with "
    "`Assistant: `, and leave an empty line between them."
)
_AS_JSON = (
    "\n"
    "Answer with a JSON object alone: `turns` is a list of objects, each with a `question` of the "
    "User and the `answer` of the Assistant."
)
RESPONSE_FORMAT: Mapping[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "conversation",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "turns": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "question": {"type": "string"},
                            "answer": {"type": "string"},
                        },
                        "required": ["question", "answer"],
                        "additionalProperties": False,
                    },
                }
            },
            "required": ["turns"],
            "additionalProperties": False,
        },
    },
}
"""What an endpoint with structured output is held to."""

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Wording:
    """How figures are put to a model.

    Args:
        has_mentions: the article's sentences are shown, where there are any.
    """

    has_mentions: bool = True

    def messages(self, figure: Figure, *, is_structured: bool) -> Messages:
        """Return the conversation that asks for one."""
        written = as_json if is_structured else as_text
        said = [{"role": "system", "content": _TASK + (_AS_JSON if is_structured else _AS_TEXT)}]
        for example in EXAMPLES:
            shown = self._shown(example.label, example.caption, example.mentions)
            said.append({"role": "user", "content": shown})
            said.append({"role": "assistant", "content": written(example.turns)})
        shown = self._shown(figure.label, figure.caption, figure.mentions)
        return [*said, {"role": "user", "content": shown}]

    @property
    def sha256(self) -> str:
        """Of all that stands around a figure, in both forms."""
        figure = Figure("P", "I", "L", "C", ("M",), ())
        both = [self.messages(figure, is_structured=flag) for flag in (False, True)]
        content = json.dumps([*both, RESPONSE_FORMAT], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def _shown(self, label: str, caption: str, mentions: Sequence[str]) -> str:
        text = f"Caption of {label.strip() or 'the figure'}:\n{caption.strip()}"
        if self.has_mentions and mentions:
            text += "\n\nIn the article:\n" + "\n".join(f"- {mention}" for mention in mentions)
        return text


def as_text(turns: Sequence[Turn]) -> str:
    """Return a conversation as blocks of text."""
    return "\n\n".join(f"User: {question}\n\nAssistant: {answer}" for question, answer in turns)


def as_json(turns: Sequence[Turn]) -> str:
    """Return a conversation as the JSON that is asked for."""
    listed = [{"question": question, "answer": answer} for question, answer in turns]
    return json.dumps({"turns": listed}, ensure_ascii=False)
