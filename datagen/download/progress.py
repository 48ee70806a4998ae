"""What a user sees while images come: how many, how fast, how long still.

A bar on a terminal, else a line now and then. What does *not* live here: downloading.
"""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_EVERY_S = 30.0
_RATE_OVER_S = 10.0


class DownloadProgress:
    """Use it as a context manager; it is called with how far the download is.

    Args:
        total: images of this call that are not there yet.
    """

    def __init__(self, total: int) -> None:
        self._console = Console(stderr=True)
        self._total = total
        self._began_s = self._said_s = time.monotonic()
        self._window = [(self._began_s, 0)]
        self._bar = Progress(
            TextColumn("images"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> "DownloadProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, ended: int, lacking: int, received_bytes: int, retrying: int) -> None:
        """Show where it is.

        Args:
            ended: images that are done, missing or failed.
            lacking: those of them without a file.
            retrying: articles that wait for another attempt.
        """
        now_s = time.monotonic()
        rate = self._rate(now_s, received_bytes)
        text = f"{_size(received_bytes)}  {_size(rate)}/s"
        if lacking:
            text += f"  {lacking} without a file"
        if retrying:
            text += f"  {retrying} to be tried again"
        self._bar.update(self._task, completed=ended, description=text)
        if not self._console.is_terminal and now_s - self._said_s > _LINE_EVERY_S:
            self._said_s = now_s
            pace = ended / (now_s - self._began_s)
            left = f"  {(self._total - ended) / pace / 60:.0f} min left" if pace else ""
            self.say(f"{ended} of {self._total} images  {text}{left}")

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._console.print(f"galen: {message}", soft_wrap=True, markup=False, highlight=False)

    def _rate(self, now_s: float, received_bytes: int) -> float:
        self._window.append((now_s, received_bytes))
        while len(self._window) > 2 and self._window[1][0] < now_s - _RATE_OVER_S:
            del self._window[0]
        then_s, then_bytes = self._window[0]
        return (received_bytes - then_bytes) / max(now_s - then_s, 1e-9)


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
