"""One answer as it grows: its tokens, the text each of them releases, and its end.

Pure. Continuing an answer on another worker is replaying its tokens through the same state, so
that text, stop strings and counts go on exactly. What does *not* live here: choosing tokens
(`sampling.py`).
"""

from collections.abc import Sequence

from services.protocol.messages import FinishReason
from services.worker.engines.detokenizer import DecodeIds, IncrementalDetokenizer
from services.worker.engines.stop_strings import StopStringMatcher


class Answer:
    """The tokens of one answer, the end-of-sequence token included.

    Args:
        decode: the tokenizer's decoding, special tokens left out.
        stops: the request's stop strings.
        eos_ids: tokens that end an answer; they count as tokens and have no text.
        max_tokens: the answer ends with this many tokens, earlier attempts' included.
        min_tokens: up to so many tokens, no stop string is looked for.
    """

    finish_reason: FinishReason | None

    def __init__(
        self,
        decode: DecodeIds,
        stops: Sequence[str],
        eos_ids: frozenset[int],
        max_tokens: int,
        min_tokens: int = 0,
    ) -> None:
        self._detokenizer = IncrementalDetokenizer(decode)
        self._matcher = StopStringMatcher(stops)
        self._eos_ids = eos_ids
        self._max_tokens = max_tokens
        self._min_tokens = min_tokens
        self.token_ids: list[int] = []
        self.finish_reason = None

    def push(self, token_id: int) -> str:
        """Append a token and return the text it releases; sets `finish_reason` at the end.

        Not to be called once that is set.
        """
        self.token_ids.append(token_id)
        if token_id in self._eos_ids:
            self.finish_reason = "stop"
            return self._flush()
        released = self._detokenizer.push(token_id)
        if len(self.token_ids) > self._min_tokens:
            released = self._matcher.push(released)
        if self._matcher.matched is not None:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self._max_tokens:
            self.finish_reason = "length"
            released += self._flush()
        return released

    def replay(self, token_ids: Sequence[int]) -> None:
        """Take over tokens of an earlier attempt; their text was released there."""
        for token_id in token_ids:
            if self.finish_reason is not None:
                return
            self.push(token_id)

    def _flush(self) -> str:
        released = self._matcher.push(self._detokenizer.flush())
        if self._matcher.matched is not None:
            self.finish_reason = "stop"
            return released
        return released + self._matcher.flush()
