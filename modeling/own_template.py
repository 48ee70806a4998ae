"""Any tokenizer's or processor's own chat template, read as pieces.

The template is rendered with a stand-in for every text, a name that nobody can type, and the
rendering is cut at the stand-ins. So what a user writes is never parsed, and what the template
writes is known for certain. A second rendering, with the texts themselves, says whether the
template only places them, or also strips them; one that does anything else is refused.

An answer is trained with what ends it: the template's text up to its first special token, or, where
it has none, what follows every answer alike. `{% generation %}` blocks are not asked. What does
*not* live here: our own templates (`conversation_templates.py`) and tokens (`prompt.py`).
"""

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modeling.conversation_templates import ImagePiece, Piece, TextPiece, TokenPiece
from modeling.conversations import Conversation, ConversationError, ImageSlot, Turn

_WHITE_SPACE = " \t\n\r\v\f"


class TemplateError(ConversationError):
    """The template refuses a conversation, or changes its texts; the message is one line."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A text as the template wrote it.

    Args:
        ends_answer: it is the last one of an answer, so what stands behind it ends that.
    """

    text: str
    is_answer: bool
    ends_answer: bool


class OwnTemplate:
    """The chat template that came with a tokenizer or a processor.

    Args:
        owner: transformers' processor, or fast tokenizer.
        image_text: what its template writes for an image; a processor says it itself.
    """

    def __init__(self, owner: Any, image_text: str | None = None) -> None:
        tokenizer = getattr(owner, "tokenizer", owner)
        self._owner = owner
        self._image_text = image_text or getattr(owner, "image_token", None)
        self._ids: Mapping[str, int] = {
            token.content: token_id
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.special and token.content
        }
        marks = {*self._ids, *([self._image_text] if self._image_text else [])}
        longest_first = sorted(map(re.escape, marks), key=len, reverse=True)
        self._marks = re.compile(f"({'|'.join(longest_first) or '(?!)'})")
        self._nonce = secrets.token_hex(8)
        self._stand_in = re.compile(f"\ue000{self._nonce}([0-9]+)\ue001")
        # A processor has its tokenizer add what the template leaves out; a tokenizer does not.
        self._bos = tokenizer.bos_token
        self._around = _added_around(tokenizer) if tokenizer is not owner else ((), ())
        self.takes_lists = self._takes_lists()
        self._ends = tuple(self._probe_ends())

    def write(self, conversation: Conversation, *, opens_answer: bool = False) -> list[Piece]:
        """Return a conversation's pieces, all tokens of the prompt included.

        Args:
            opens_answer: end with what comes before the assistant's next words.

        Raises:
            TemplateError: the template refuses the conversation, leaves an image out, or changes a
                text other than by stripping it.
        """
        turns = list(conversation.turns)
        if conversation.system is not None:
            turns.insert(0, Turn("system", (conversation.system,)))
        texts = [part for turn in turns for part in turn.parts if _has_words(part)]
        rendered = self._render(turns, opens_answer=opens_answer, has_stand_ins=True)
        written, numbers = self._cut(rendered)
        real = self._render(turns, opens_answer=opens_answer)
        placed = _follow(real, written, [str(texts[number]) for number in numbers])
        if placed is None:
            raise TemplateError(
                "the chat template changes texts otherwise than by stripping them; "
                "take another template"
            )
        sides = _sides(turns)
        said = [_Placed(text, *sides[n]) for text, n in zip(placed, numbers, strict=True)]
        pieces = list(self._pieces(written, said))
        num_images = sum(isinstance(piece, ImagePiece) for piece in pieces)
        if num_images != conversation.num_images:
            raise TemplateError(
                f"the chat template writes {num_images} places for {conversation.num_images} "
                "images; take another template"
            )
        if self._bos is not None and written[0].startswith(self._bos):
            return pieces
        before, after = ([TokenPiece(i, is_in_text=False) for i in ids] for ids in self._around)
        return [*before, *pieces, *after]

    def _pieces(self, written: Sequence[str], placed: Sequence[_Placed]) -> Iterator[Piece]:
        """Yield the template's texts and, between them, those of the conversation."""
        yield from self._marked(written[0], 0)
        for text, behind in zip(placed, written[1:], strict=True):
            if text.text:
                yield TextPiece(text.text, text.is_answer)
            yield from self._marked(behind, self._end_length(behind) if text.ends_answer else 0)

    def _marked(self, written: str, num_trained: int) -> Iterator[Piece]:
        """Yield what the template wrote; its first characters are trained."""
        at = 0
        for part in self._marks.split(written):
            end = at + len(part)
            if part == self._image_text:
                yield ImagePiece()
            elif part in self._ids:
                yield TokenPiece(self._ids[part], end <= num_trained)
            else:
                border = min(max(num_trained - at, 0), len(part))
                yield from (
                    TextPiece(text, is_trained)
                    for text, is_trained in ((part[:border], True), (part[border:], False))
                    if text
                )
            at = end

    def _end_length(self, behind: str) -> int:
        """Return how much of what stands behind an answer ends it."""
        for mark in self._marks.finditer(behind):
            if mark.group() in self._ids:
                return mark.end()
        end = _common_beginning([behind, *self._ends])
        # what goes on takes the space before it into its first token
        return len(end if end == behind else end.rstrip(_WHITE_SPACE) or end)

    def _probe_ends(self) -> Iterator[str]:
        """Yield what stands behind an answer, in the middle of a conversation and at its end."""
        probe = [Turn(role, ("x",)) for role in ("user", "assistant")] * 2
        try:
            written, numbers = self._cut(self._render(probe, has_stand_ins=True))
        except TemplateError:
            return
        for number, behind in zip(numbers, written[1:], strict=True):
            if number % 2:
                yield behind

    def _cut(self, rendered: str) -> tuple[list[str], list[int]]:
        """Return what the template wrote around the stand-ins, and the stand-ins' numbers."""
        parts = self._stand_in.split(rendered)
        return parts[::2], [int(number) for number in parts[1::2]]

    def _render(
        self, turns: Sequence[Turn], *, opens_answer: bool = False, has_stand_ins: bool = False
    ) -> str:
        messages: list[dict[str, Any]] = []
        number = 0
        for turn in turns:
            parts: list[dict[str, Any]] = []
            for part in turn.parts:
                if isinstance(part, ImageSlot):
                    parts.append({"type": "image"})
                    continue
                text = part
                if has_stand_ins and _has_words(part):
                    text, number = f"\ue000{self._nonce}{number}\ue001", number + 1
                parts.append({"type": "text", "text": text})
            is_list = turn.num_images > 0 or self.takes_lists
            content = parts if is_list else "".join(part["text"] for part in parts)
            messages.append({"role": turn.role, "content": content})
        return self._apply(messages, add_generation_prompt=opens_answer)

    def _apply(self, messages: list[dict[str, Any]], **options: bool) -> str:
        try:
            rendered = self._owner.apply_chat_template(messages, tokenize=False, **options)
        except Exception as error:  # templates raise what they like: jinja2, TypeError, ValueError
            raise TemplateError(
                f"the chat template refuses this conversation ({type(error).__name__})"
            ) from error
        return str(rendered)

    def _takes_lists(self) -> bool:
        """Whether text-only content may be a list of parts (older templates want a string)."""
        content = [{"type": "text", "text": self._nonce}]
        try:
            text = self._apply([{"role": "user", "content": content}])
        except TemplateError:
            return False
        return self._nonce in text and f"'{self._nonce}'" not in text


def _sides(turns: Sequence[Turn]) -> list[tuple[bool, bool]]:
    """Return of each text with words whether it is of an answer, and whether it ends that."""
    sides: list[tuple[bool, bool]] = []
    for turn in turns:
        is_answer = turn.role == "assistant"
        num_texts = sum(map(_has_words, turn.parts))
        sides += [(is_answer, is_answer and n == num_texts - 1) for n in range(num_texts)]
    return sides


def _has_words(part: object) -> bool:
    """Whether a part is a text that gets a stand-in: templates may treat empty ones otherwise."""
    return isinstance(part, str) and bool(part.strip(_WHITE_SPACE))


def _follow(real: str, written: Sequence[str], texts: Sequence[str]) -> list[str] | None:
    """Return the texts as they stand in the real rendering: as they are, or stripped.

    Args:
        written: what the template writes before, between and behind the texts.
    """
    if not real.startswith(written[0]):
        return None
    ways: dict[int, list[str]] = {len(written[0]): []}  # by where in `real` they end
    for text, behind in zip(texts, written[1:], strict=True):
        longer: dict[int, list[str]] = {}
        for at, chosen in ways.items():
            for form in (text, text.strip(), text.lstrip(), text.rstrip()):
                if real.startswith(form + behind, at):
                    longer.setdefault(at + len(form) + len(behind), [*chosen, form])
        ways = longer
    return ways.get(len(real))


def _common_beginning(texts: Sequence[str]) -> str:
    length = 0
    for characters in zip(*texts, strict=False):
        if len(set(characters)) > 1:
            break
        length += 1
    return texts[0][:length]


def _added_around(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ids that a tokenizer puts before and behind every text by itself."""
    plain = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a", add_special_tokens=True)
    num_before = next(
        (n for n in range(len(whole)) if whole[n : n + len(plain)] == plain), len(whole)
    )
    return tuple(whole[:num_before]), tuple(whole[num_before + len(plain) :])
