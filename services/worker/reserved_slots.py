"""How many slots requests of the batch lanes leave for interactive ones.

As many as interactive requests used at once in the last half to whole minute and one more, at least
a sixteenth and at most a half of the slots: a batch that fills a worker would otherwise make every
burst of the usual interactive load wait for the end of a batch request. What does *not* live here:
who counts what runs (`loop.py`), a number that the operator fixed (`WorkerSettings`).
"""

_LEAST_SHARE = 16
_MOST_SHARE = 2
_WINDOW_S = 30.0


class ReservedSlots:
    """Follows the interactive load of one worker.

    Args:
        slots: of the worker.
        fixed: what the operator wants kept, whatever the load; None: as many as were used.
    """

    def __init__(self, slots: int, fixed: int | None) -> None:
        self._slots = slots
        self._fixed = fixed
        self._began_s = 0.0
        self._peak = 0
        self._peak_before = 0

    def batch_slots(self, num_interactive: int, now_s: float) -> int:
        """Return the most batch requests that may run now, beside so many interactive ones.

        Args:
            num_interactive: that run now; remembered for a window or two.
            now_s: of a monotonic clock, in seconds.
        """
        if self._fixed is not None:
            return self._slots - self._fixed
        passed = now_s - self._began_s
        if passed >= _WINDOW_S:
            self._peak_before = self._peak if passed < 2 * _WINDOW_S else 0
            self._peak, self._began_s = 0, now_s
        self._peak = max(self._peak, num_interactive)
        peak = max(self._peak, self._peak_before)
        least = max(1, self._slots // _LEAST_SHARE)
        wanted = max(least, peak + 1 if peak else 0)
        return self._slots - min(wanted, self._slots // _MOST_SHARE)
