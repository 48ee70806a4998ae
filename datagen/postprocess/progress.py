"""What a user sees while samples are post-processed: how many, how fast, the time left.

What does *not* live here: the bar (`modeling.count_progress`), the table at the end (`command.py`).
"""

from modeling.count_progress import CountProgress


class ProgressBar:
    """Use it as a context manager; it is a `Watch` of `running.py`."""

    def __init__(self) -> None:
        self._shown = CountProgress("", None, vanishes=True)
        self._done = 0

    def __enter__(self) -> "ProgressBar":
        self._shown.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.__exit__()

    def begin(self, name: str, total: int | None) -> None:
        """Begin a part of the work; None: nobody knows how long it is."""
        self._done = 0
        self._shown.begin(name, total)

    def advance(self, count: int = 1) -> None:
        """Show that more is done."""
        self._done += count
        self._shown.show(self._done, f"{self._shown.per_s(self._done):,.0f}/s")
