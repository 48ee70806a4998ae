"""What a user sees while images come: how many, how fast, how long still.

What does *not* live here: downloading, the bar (`modeling.count_progress`).
"""

import time

from modeling.count_progress import CountProgress

_RATE_OVER_S = 10.0


class DownloadProgress:
    """Use it as a context manager; it is called with how far the download is.

    Args:
        total: images of this call that are not there yet.
    """

    def __init__(self, total: int) -> None:
        self._shown = CountProgress("images", total)
        self._window = [(time.monotonic(), 0)]

    def __enter__(self) -> "DownloadProgress":
        self._shown.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.__exit__()

    def __call__(self, ended: int, lacking: int, received_bytes: int, retrying: int) -> None:
        """Show where it is.

        Args:
            ended: images that are done, missing or failed.
            lacking: those of them without a file.
            retrying: articles that wait for another attempt.
        """
        rate = self._rate(time.monotonic(), received_bytes)
        text = f"{_size(received_bytes)}  {_size(rate)}/s"
        if lacking:
            text += f"  {lacking} without a file"
        if retrying:
            text += f"  {retrying} to be tried again"
        self._shown.show(ended, text)

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._shown.say(message)

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
