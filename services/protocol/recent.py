"""What was dealt with lately, so that a late word of it is not a surprise."""

from typing import Generic, TypeVar

K = TypeVar("K")


class Recent(Generic[K]):
    """A bounded memory; the oldest are forgotten first.

    Args:
        most: how many are remembered.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[K, None] = {}

    def add(self, key: K) -> bool:
        """Remember `key`; returns whether it is new."""
        if key in self._known:
            return False
        self._known[key] = None
        if len(self._known) > self._most:
            del self._known[next(iter(self._known))]
        return True

    def __contains__(self, key: K) -> bool:
        return key in self._known
