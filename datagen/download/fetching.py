"""One request for one archive: its images out of the reply, or why not.

The bytes go from the socket through the unpacker to the files, in the thread that asked: a slow
disk slows the server down, and nothing is buffered. What does *not* live here: retries and whose
turn it is (`turns.py`).
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from datagen.download import reasons
from datagen.download.extracting import Limits, Result, Wanted, extract
from datagen.download.tar_stream import ArchiveError
from services.endpoint_client.retry_after import retry_after_s

_CONNECT_S = 20.0
_MOST_REDIRECTS = 5
_MOST_RETRY_AFTER_S = 3600.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a request brought.

    Args:
        reason: why images are without a result; None: none is.
        retry_after_s: what the server asked for.
    """

    results: tuple[Result, ...]
    reason: str | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Times:
    """How long is waited.

    Args:
        stall_s: for the next byte.
        article_s: for a whole archive, however steadily it drips.
    """

    stall_s: float = 60.0
    article_s: float = 3600.0


class StoppedError(Exception):
    """The download ends; what was under way counts for nothing."""


class Fetcher:
    """Shared by all threads.

    Args:
        advance: is called with each number of bytes.
        stop: when it is set, requests end at their next byte.
    """

    def __init__(
        self,
        client: httpx.Client,
        folder: Path,
        limits: Limits,
        times: Times,
        advance: Callable[[int], None],
        stop: threading.Event,
    ) -> None:
        self._client = client
        self._folder = folder
        self._limits = limits
        self._times = times
        self._advance = advance
        self._stop = stop

    def fetch(self, url: str, wanted: Sequence[Wanted]) -> Fetched:
        """Ask for an archive.

        Raises:
            StoppedError: it was told to.
            OSError: the disk is full.
        """
        results: list[Result] = []
        try:
            with self._client.stream("GET", url) as response:
                if response.status_code != 200:
                    return _refused(response)
                chunks = self._chunks(response)
                # One by one: an archive that breaks leaves what came before.
                results.extend(extract(chunks, wanted, self._folder, self._limits))
        except ArchiveError as error:
            return Fetched(tuple(results), error.reason)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return Fetched(tuple(results), reason_of(error))
        return Fetched(tuple(results))

    def _chunks(self, response: httpx.Response) -> Iterator[bytes]:
        until_s = time.monotonic() + self._times.article_s
        left_bytes = self._limits.archive_bytes
        for chunk in response.iter_raw():
            if self._stop.is_set():
                raise StoppedError
            self._advance(len(chunk))
            left_bytes -= len(chunk)
            if left_bytes < 0:
                raise ArchiveError(reasons.ARCHIVE_TOO_LARGE)
            if time.monotonic() > until_s:
                raise ArchiveError(reasons.TOO_SLOW)
            yield chunk


def open_client(at_once: int, stall_s: float, contact: str | None) -> httpx.Client:
    """Return a client that says who it is."""
    who = (
        "galen-data-download (research)" if contact is None else f"galen-data-download ({contact})"
    )
    return httpx.Client(
        headers={"User-Agent": who, "Accept-Encoding": "identity"},
        timeout=httpx.Timeout(stall_s, connect=min(_CONNECT_S, stall_s), pool=None),
        limits=httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once),
        follow_redirects=True,
        max_redirects=_MOST_REDIRECTS,
    )


def reason_of(error: Exception) -> str:
    """Return the code of what went wrong on the way."""
    match error:
        case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.ProxyError():
            return reasons.NO_CONNECTION
        case httpx.TimeoutException():
            return reasons.STALLED
        case httpx.TooManyRedirects() | httpx.UnsupportedProtocol():
            return reasons.BAD_REDIRECT
        case httpx.InvalidURL():
            return reasons.BAD_URL
        case _:
            return reasons.CUT


def _refused(response: httpx.Response) -> Fetched:
    wait_s = retry_after_s(response.headers.get("Retry-After"), _MOST_RETRY_AFTER_S)
    return Fetched((), reasons.of_http(response.status_code), wait_s)
