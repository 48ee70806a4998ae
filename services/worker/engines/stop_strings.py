"""Stop strings on a stream: text that may be the beginning of one is held back until it is decided.

Pure; used by every engine that detokenises by itself.
"""

from collections.abc import Sequence


class StopStringMatcher:
    """Cuts an answer before the first stop string, wherever token borders fall.

    Feed it the text of each token in order. Text is released as soon as no stop string can begin
    in it. Where several stop strings match, the one that is complete first wins, and of those that
    end together the longest: so the cut does not depend on how the text was split into tokens.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Return what `text` releases; sets `matched` once a stop string is complete."""
        if not self._stops:
            return text
        self._held += text
        found = [
            (at + len(stop), at, stop) for stop in self._stops if (at := self._held.find(stop)) >= 0
        ]
        if found:
            _, at, self.matched = min(found)
            released, self._held = self._held[:at], ""
            return released
        keep = max(_longest_prefix_at_end(self._held, stop) for stop in self._stops)
        cut = len(self._held) - keep
        released, self._held = self._held[:cut], self._held[cut:]
        return released

    def flush(self) -> str:
        """Return the text still held back: the answer ended otherwise."""
        released, self._held = self._held, ""
        return released


def _longest_prefix_at_end(text: str, stop: str) -> int:
    """Return the length of the longest proper prefix of `stop` with which `text` ends."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
