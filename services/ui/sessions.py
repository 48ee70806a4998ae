"""Who is logged in: a cookie in the browser, everything else in this process.

A session holds the API key, which the browser does not get back, and the files that its user
uploaded, which go with it. What does *not* live here: checking a key (`login.py`).
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

COOKIE = "galen_session"
_TOKEN_BYTES = 32
_MOST = 10_000
_MOST_PAGES = 1000
"""Of a session: each time that its page is opened is one."""
_MOST_SESSION_BYTES = 1 << 30


@dataclass(slots=True, eq=False)
class Session:
    """One browser.

    Args:
        key: the API key that it logged in with; None: the gateway asks for none.
        name: to show who is logged in; no secret.
        files: uploaded by it, or made for it.
        pages: pages that are open, by Gradio's own names.
        claimed: all pages that it ever had.
        closed_s: when the last of them was closed.
    """

    token: str
    key: str | None
    name: str
    started_s: float
    seen_s: float
    files: set[Path] = field(default_factory=set[Path])
    pages: set[str] = field(default_factory=set[str])
    claimed: set[str] = field(default_factory=set[str])
    closed_s: float | None = None


class Sessions:
    """All of them.

    `public_files` are files of ours that everybody may see, and nobody's end deletes.

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
        self._most_bytes = _MOST_SESSION_BYTES
        self._by_token: dict[str, Session] = {}
        self._owners: dict[str, str] = {}
        self.public_files: frozenset[Path] = frozenset()

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
        for page in session.claimed:
            self._owners.pop(page, None)
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
            if file in self.public_files:
                continue
            if not any(file in other.files for other in self._by_token.values()):
                file.unlink(missing_ok=True)

    def may_read(self, session: Session, file: Path) -> bool:
        """Whether a file was uploaded by a session, or made for it, or is everybody's."""
        return file in session.files or file in self.public_files

    def keep_file(self, session: Session, file: Path) -> None:
        """Note that a file was uploaded by a session, or made for it."""
        if file not in self.public_files:
            session.files.add(file)

    def has_room(self, session: Session, num_bytes: int) -> bool:
        """Whether a session may upload so much more."""
        held = 0
        for file in session.files:
            with contextlib.suppress(OSError):
                held += file.stat().st_size
        return held + num_bytes <= self._most_bytes

    def claim_page(self, session: Session, page: str) -> bool:
        """Whether a page is a session's own: whose name was first used by it.

        Args:
            page: its name, which Gradio's script draws in the browser.
        """
        if page not in self._owners:
            if len(session.claimed) >= _MOST_PAGES:
                return False
            session.claimed.add(page)
            self._owners[page] = session.token
        return self._owners[page] == session.token

    def owned_files(self) -> set[Path]:
        """Return the files of all sessions, and those that are everybody's."""
        return {file for each in self._by_token.values() for file in each.files} | {
            *self.public_files
        }

    def _is_over(self, session: Session) -> bool:
        now = self._clock()
        if now - session.started_s > self._longest_s:
            return True
        return not session.pages and now - session.seen_s > self._idle_s


def remove_strays(folder: Path, owned: Set[Path], age_s: float) -> None:
    """Delete old files in a folder that are nobody's: uploads cut off, copies that Gradio made."""
    now = datetime.now(UTC).timestamp()
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if file.is_dir():
                file.rmdir()  # which fails where something is in it
            elif file not in owned and now - file.stat().st_mtime > age_s:
                file.unlink()
