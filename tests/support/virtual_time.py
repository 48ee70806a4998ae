"""An event loop whose time is its own: it never waits, so that minutes pass in milliseconds.

For code that only sleeps and waits for itself. What does *not* live here: sockets, threads.
"""

import asyncio
import selectors


class _Jumping(selectors.SelectSelector):
    """Moves the time on where a loop would wait."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return at once; `timeout` seconds later by the loop's clock."""
        assert timeout is not None, "nothing will ever happen"
        self.now_s += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Give it to `asyncio.Runner` as its `loop_factory`."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Return the seconds that have passed for this loop's tasks."""
        return self._jumping.now_s
