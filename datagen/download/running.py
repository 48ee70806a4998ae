"""A download from its first article to its last: threads that fetch, one that keeps the truth.

What does *not* live here: words for the user (`command.py`, `progress.py`).
"""

import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from datagen.download import reasons
from datagen.download.config import Places
from datagen.download.extracting import Limits, Result
from datagen.download.fetching import Fetched, Fetcher, StoppedError, Times, open_client
from datagen.download.folder import IMAGES
from datagen.download.index import Article, Index
from datagen.download.listing import is_web_url
from datagen.download.turns import Job, Patience, Turns
from modeling.durable_files import sync_to_disk

_LOOK_EVERY_S = 0.25
_MOST_RESULTS = 1000
_WAIT_FOR_THREADS_S = 3.0
_MOST_READY = 200
_MOST_JOBS = 5000
"""Held where a host asks for time: the others' articles may stand behind so many of its own."""
_REFILL = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """How to download.

    Args:
        at_once: requests, in all.
        per_host: requests to one host.
        contact: of the user, for servers' operators.
    """

    places: Places = field(default_factory=Places)
    at_once: int = 16
    per_host: int = 8
    limits: Limits = field(default_factory=Limits)
    times: Times = field(default_factory=Times)
    patience: Patience = field(default_factory=Patience)
    contact: str | None = None


Show = Callable[[int, int, int, int], None]
"""Of images ended, those of them without a file, bytes received, articles to be tried again."""
_Message = list[Result] | BaseException


def download(
    index: Index, folder: Path, plan: Plan, show: Show, tell: Callable[[str], None]
) -> int:
    """Fetch what waits in an index; returns the number of bytes that came.

    Stopped by KeyboardInterrupt, the index holds what had come until then.

    Raises:
        OSError: the disk is full.
    """
    with _Threads(folder / IMAGES, plan, tell) as threads:
        turns, ended, lacking = threads.turns, 0, 0
        is_all = False
        while True:
            if not is_all and turns.num_waiting < _MOST_JOBS and turns.num_ready < _MOST_READY:
                articles = index.next_articles(_REFILL)
                is_all = not articles
                turns.put(_jobs(articles, plan.places))
            was_idle = is_all and turns.is_idle()
            results = threads.results(0 if was_idle else _LOOK_EVERY_S)
            if results:
                sync_to_disk(folder / IMAGES)  # their names
                index.record(results)
                ended += len(results)
                lacking += sum(each.saved is None for each in results)
            show(ended, lacking, threads.received_bytes, turns.num_retries)
            if was_idle and not results:
                return threads.received_bytes


def _jobs(articles: Iterable[Article], places: Places) -> list[Job]:
    return [Job(article, list(places.urls_of(article.url))) for article in articles]


class _Threads:
    def __init__(self, images: Path, plan: Plan, tell: Callable[[str], None]) -> None:
        self.turns = Turns(plan.per_host, plan.patience, tell)
        self.received_bytes = 0
        self._messages: queue.Queue[_Message] = queue.Queue()
        self._counting = threading.Lock()
        self._stop = threading.Event()
        self._client = open_client(plan.at_once, plan.times.stall_s, plan.contact)
        self._fetcher = Fetcher(
            self._client, images, plan.limits, plan.times, self._count, self._stop
        )
        # Daemons: one that waits for a silent server must not keep the process.
        self._threads = [
            threading.Thread(target=self._work, name=f"fetch-{number}", daemon=True)
            for number in range(plan.at_once)
        ]

    def __enter__(self) -> "_Threads":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.turns.close()
        for thread in self._threads:
            thread.join(_WAIT_FOR_THREADS_S / len(self._threads))
        if not any(thread.is_alive() for thread in self._threads):
            self._client.close()

    def results(self, wait_s: float) -> list[Result]:
        """Return what has come, after so long at most; raises what ended a thread."""
        found: list[Result] = []
        try:
            message = self._messages.get(timeout=wait_s) if wait_s else self._messages.get_nowait()
            while True:
                if isinstance(message, BaseException):
                    raise message
                found += message
                if len(found) >= _MOST_RESULTS:
                    break
                message = self._messages.get_nowait()
        except queue.Empty:
            pass
        return found

    def _work(self) -> None:
        try:
            while (job := self.turns.take()) is not None:
                self._attempt(job)
        except StoppedError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            self._messages.put(error)

    def _attempt(self, job: Job) -> None:
        fetched = self._fetched(job)
        results = [replace(each, url=job.url) for each in fetched.results]
        known = {each.number for each in results}
        left = tuple(each for each in job.article.wanted if each.number not in known)
        url = job.url
        job.article = replace(job.article, wanted=left)
        reason = fetched.reason if left else None
        comes_again = self.turns.settle(job, reason, fetched.retry_after_s)
        if not comes_again:
            results += [Result(each.number, reason=reason, url=url) for each in left]
        if results:
            self._messages.put(results)
        if not comes_again:
            self.turns.finished()

    def _fetched(self, job: Job) -> Fetched:
        if self.turns.is_dead(job):
            return Fetched((), reasons.HOST_DEAD)
        if not is_web_url(job.url):
            return Fetched((), reasons.BAD_URL)
        return self._fetcher.fetch(job.url, job.article.wanted)

    def _count(self, num_bytes: int) -> None:
        with self._counting:
            self.received_bytes += num_bytes
