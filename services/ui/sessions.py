"""Who is logged in: a cookie in the browser, everything else in this process.

A session holds the API key, which the browser does not get back, and the files that its user
uploaded, which go with it. What does *not* live here: checking a key (`login.py`).
"""

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

COOKIE = "galen_session"
_TOKEN_BYTES = 32
_MOST = 10_000


@dataclass(slots=True, eq=False)
class Session:
    """One browser.

    Args:
        key: the API key that it logged in with; None: the gateway asks for none.
        name: to show who is logged in; no secret.
        files: uploaded by it, or made for it.
        pages: pages that are open, by Gradio's own names.
        closed_s: when the last of them was closed.
    """

    token: str
    key: str | None
    name: str
    started_s: float
    seen_s: float
    files: set[Path] = field(default_factory=set[Path])
    pages: set[str] = field(default_factory=set[str])
    closed_s: float | None = None


class Sessions:
    """All of them.

    Args:
        longest_s: after so long one is over.
        idle_s: after so long without a request, too.
        closed_s: files of a session whose pages are all closed are deleted after so long: the
            conversations that they stand in are gone with the pages.
        clock: seconds; a test has its own.
    """

    def __init__(
        self,
        longest_s: float,
        idle_s: float,
        closed_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._longest_s = longest_s
        self._idle_s = idle_s
        self._closed_s = closed_s
        self._clock = clock
        self._by_token: dict[str, Session] = {}

    def __len__(self) -> int:
        return len(self._by_token)

    def start(self, key: str | None, name: str) -> Session:
        """Begin a session; the oldest idle one makes room where there are too many."""
        self.sweep()
        if len(self._by_token) >= _MOST:
            self.end(min(self._by_token.values(), key=lambda each: each.seen_s))
        now = self._clock()
        session = Session(secrets.token_urlsafe(_TOKEN_BYTES), key, name, now, now)
        self._by_token[session.token] = session
        return session

    def find(self, token: str | None) -> Session | None:
        """Return the session of a cookie, which counts as seen; None: there is none."""
        session = self._by_token.get(token or "")
        if session is None:
            return None
        if self._is_over(session):
            self.end(session)
            return None
        session.seen_s = self._clock()
        return session

    def peek(self, token: str | None) -> Session | None:
        """Return the session of a cookie without counting it as seen."""
        return self._by_token.get(token or "")

    def end(self, session: Session) -> None:
        """Forget a session and delete its files."""
        self._by_token.pop(session.token, None)
        self.drop_files(session, tuple(session.files))

    def end_all(self) -> None:
        """End every session."""
        for session in tuple(self._by_token.values()):
            self.end(session)

    def open_page(self, session: Session, page: str) -> None:
        """Note that a page was opened."""
        session.pages.add(page)
        session.closed_s = None

    def close_page(self, session: Session, page: str) -> None:
        """Note that a page was closed, or lost its connection."""
        session.pages.discard(page)
        if not session.pages:
            session.closed_s = self._clock()

    def sweep(self) -> None:
        """End those that are over, and delete the files of those whose pages are closed."""
        for session in [each for each in self._by_token.values() if self._is_over(each)]:
            self.end(session)
        for session in self._by_token.values():
            closed_s = session.closed_s
            if closed_s is not None and self._clock() - closed_s > self._closed_s:
                self.drop_files(session, tuple(session.files))

    def drop_files(self, session: Session, files: Iterable[Path]) -> None:
        """Delete files of a session, but not what another one has uploaded, too.

        Gradio keeps the same bytes once, whoever sent them.
        """
        for file in files:
            session.files.discard(file)
            if not any(file in other.files for other in self._by_token.values()):
                file.unlink(missing_ok=True)

    def owns(self, session: Session, file: Path) -> bool:
        """Whether a file was uploaded by a session, or made for it."""
        return file in session.files

    def _is_over(self, session: Session) -> bool:
        now = self._clock()
        if now - session.started_s > self._longest_s:
            return True
        return not session.pages and now - session.seen_s > self._idle_s
