"""Whose turn it is: so many at once, fewer of them per host; waits, mirrors, dead hosts.

Threads take articles here and say what came of them. What does *not* live here: requests
(`fetching.py`), which articles there are (`index.py`).
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from datagen.download import reasons
from datagen.download.index import Article

_MOST_BACKOFF_S = 120.0
_MOST_CONTENT_ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class Patience:
    """How often, and how long.

    Args:
        retries: of an article at one place, behind the first attempt.
        backoff_s: before the first one; doubled each time, with jitter.
        dead_after: connections that fail in a row before a host is left alone for a while.
        pause_s: that while; doubled each time.
        pauses: so many of them, and the host is dead.
    """

    retries: int = 4
    backoff_s: float = 1.0
    dead_after: int = 10
    pause_s: float = 30.0
    pauses: int = 3


@dataclass(slots=True)
class Job:
    """An article under way.

    Args:
        urls: where it may be, in order.
        place: the present one of them.
    """

    article: Article
    urls: list[str]
    place: int = 0
    attempts: int = 0
    not_before_s: float = 0.0
    last_reason: str = reasons.NO_CONNECTION

    @property
    def url(self) -> str:
        """The present one."""
        return self.urls[self.place]

    @property
    def host(self) -> str:
        """With its port."""
        return urlsplit(self.url).netloc


@dataclass(slots=True)
class _Host:
    in_flight: int = 0
    misses: int = 0
    pauses: int = 0
    closed_until_s: float = 0.0
    is_dead: bool = False
    is_told: bool = False


@dataclass(slots=True)
class _State:
    jobs: list[Job] = field(default_factory=list[Job])
    hosts: dict[str, _Host] = field(default_factory=dict[str, _Host])
    num_out: int = 0
    is_closed: bool = False


class Turns:
    """Shared by all threads.

    Args:
        per_host: requests at once to one host.
        tell: is told once of each host that cannot be reached.
    """

    def __init__(self, per_host: int, patience: Patience, tell: Callable[[str], None]) -> None:
        self._per_host = per_host
        self._patience = patience
        self._tell = tell
        self._state = _State()
        self._changed = threading.Condition()

    @property
    def num_waiting(self) -> int:
        """Jobs that nobody has taken."""
        return len(self._state.jobs)

    @property
    def num_ready(self) -> int:
        """Of them, those that need not wait for their host or for a time of their own."""
        now_s = time.monotonic()
        with self._changed:
            return sum(
                max(job.not_before_s, self._host(job).closed_until_s) <= now_s
                for job in self._state.jobs
            )

    @property
    def num_retries(self) -> int:
        """Jobs that wait for another attempt."""
        with self._changed:
            return sum(job.attempts > 0 for job in self._state.jobs)

    def is_idle(self) -> bool:
        """Whether no job waits, and none is under way."""
        with self._changed:
            return not self._state.jobs and self._state.num_out == 0

    def put(self, jobs: list[Job]) -> None:
        """Add jobs."""
        with self._changed:
            self._state.jobs += jobs
            self._changed.notify_all()

    def close(self) -> None:
        """Let every `take` return None."""
        with self._changed:
            self._state.is_closed = True
            self._changed.notify_all()

    def take(self) -> Job | None:
        """Wait for a job whose turn it is; None: there will be none."""
        with self._changed:
            while not self._state.is_closed:
                now_s = time.monotonic()
                soonest_s = now_s + 3600
                for number, job in enumerate(self._state.jobs):
                    host = self._reachable(job, now_s)
                    if host.in_flight >= self._per_host:  # `settle` will wake us
                        continue
                    opens_s = max(job.not_before_s, host.closed_until_s)
                    if opens_s <= now_s or host.is_dead:
                        del self._state.jobs[number]
                        host.in_flight += 1
                        self._state.num_out += 1
                        return job
                    soonest_s = min(soonest_s, opens_s)
                self._changed.wait(soonest_s - now_s)
        return None

    def is_dead(self, job: Job) -> bool:
        """Whether its host is not asked any more."""
        with self._changed:
            return self._host(job).is_dead

    def settle(self, job: Job, reason: str | None, retry_after_s: float | None = None) -> bool:
        """Note how an attempt ended; returns whether the job comes again.

        `finished` has to be called when it does not. A host that asks for time gets it from all.
        """
        with self._changed:
            host = self._host(job)
            host.in_flight -= 1
            if reason == reasons.NO_CONNECTION:
                self._missed(job, host)
            elif reason != reasons.HOST_DEAD:
                host.misses = host.pauses = 0
            comes_again = reason is not None and self._is_next(job, host, reason, retry_after_s)
            if comes_again:
                self._state.num_out -= 1
                self._state.jobs.append(job)
            self._changed.notify_all()
            return comes_again

    def finished(self) -> None:
        """Note that the results of a job have been handed on."""
        with self._changed:
            self._state.num_out -= 1
            self._changed.notify_all()

    def _is_next(self, job: Job, host: _Host, reason: str, retry_after_s: float | None) -> bool:
        """Decide on another attempt, here or at the next mirror."""
        job.attempts += 1
        job.last_reason = reason
        backoff_s = min(self._patience.backoff_s * 2 ** (job.attempts - 1), _MOST_BACKOFF_S)
        wait_s = backoff_s * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
        now_s = time.monotonic()
        if reason in {"http-429", "http-503"}:
            host.closed_until_s = max(host.closed_until_s, now_s + (retry_after_s or wait_s))
        may_stay = not reasons.is_permanent(reason) and not host.is_dead
        most = self._patience.retries + 1
        if reason in reasons.OF_THE_CONTENT:
            most = min(most, _MOST_CONTENT_ATTEMPTS)
        has_mirror = job.place + 1 < len(job.urls)
        is_away = host.misses >= self._patience.dead_after
        if may_stay and job.attempts < most and not (is_away and has_mirror):
            job.not_before_s = now_s + max(wait_s, retry_after_s or 0)
            return True
        if has_mirror:
            job.place += 1
            job.attempts = 0
            job.not_before_s = 0.0
        elif may_stay and reason == reasons.NO_CONNECTION and host.closed_until_s > now_s:
            job.attempts -= 1  # it waits for the host, which is given another chance
        else:
            return False
        return True

    def _reachable(self, job: Job, now_s: float) -> _Host:
        """Return the host of a job, which goes on to its mirror while its own is left alone."""
        host = self._host(job)
        while (
            job.place + 1 < len(job.urls)
            and host.misses >= self._patience.dead_after
            and (host.is_dead or host.closed_until_s > now_s)
        ):
            job.place += 1
            job.attempts, job.not_before_s = 0, 0.0
            host = self._host(job)
        return host

    def _missed(self, job: Job, host: _Host) -> None:
        host.misses += 1
        now_s = time.monotonic()
        if host.misses < self._patience.dead_after or host.closed_until_s > now_s:
            return
        if not host.is_told:
            host.is_told = True
            self._tell(
                f"{job.host} cannot be reached ({host.misses} connections in a row failed); if it "
                f"has moved, say where: --rewrite {urlsplit(job.url).scheme}://{job.host}/=NEW_URL"
            )
        host.pauses += 1
        if host.pauses > self._patience.pauses:
            host.is_dead = True
        else:
            host.closed_until_s = now_s + self._patience.pause_s * 2 ** (host.pauses - 1)

    def _host(self, job: Job) -> _Host:
        return self._state.hosts.setdefault(job.host, _Host())
