"""Token ids to text, one token at a time, without ever showing half a character.

Pure. The texts, put together, are the tokenizer's own decoding of the whole answer. What does *not*
live here: stop strings (`stop_strings.py`) and when an answer ends (`answer.py`).
"""

from collections.abc import Callable, Sequence

DecodeIds = Callable[[Sequence[int]], str]
"""Decodes token ids to text, special tokens left out."""

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class IncrementalDetokenizer:
    """Decodes a growing answer through a short window of its last tokens.

    A decoder may need the tokens before (a SentencePiece decoder drops the first space, a
    byte-level one joins the bytes of a character), so the window starts one finished piece of text
    earlier than the new text does, and only what is new is returned. Text that ends in U+FFFD may
    be half a character and waits for the next token.

    One decoder can take text back: SentencePiece's byte fallback turns a whole run of byte tokens
    into U+FFFD if any of it is invalid UTF-8. What was returned before is kept then.
    """

    def __init__(self, decode: DecodeIds) -> None:
        self._decode = decode
        self._context_ids: list[int] = []
        self._context = ""
        self._new_ids: list[int] = []

    def push(self, token_id: int) -> str:
        """Return the text that `token_id` completes, perhaps none."""
        self._new_ids.append(token_id)
        text = self._decode([*self._context_ids, *self._new_ids])
        if len(text) <= len(self._context) or text.endswith(UNFINISHED):
            return ""
        new = text[len(self._context) :]
        self._context_ids, self._new_ids = self._new_ids, []
        self._context = self._decode(self._context_ids)
        return new

    def flush(self) -> str:
        """Return what is still held back: the answer ends here."""
        text = self._decode([*self._context_ids, *self._new_ids])
        new = text[len(self._context) :]
        self._context_ids, self._new_ids, self._context = [], [], ""
        return new
