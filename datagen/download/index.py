"""What a folder's download knows: the lines of its list, and what became of each; an SQLite file.

The truth for going on after a kill at any moment; images are on the disk before it says so. Used by
one thread. What does *not* live here: reading the list (`listing.py`), the manifest for others
(`manifest.py`).
"""

import contextlib
import hashlib
import itertools
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from datagen.download import reasons
from datagen.download.extracting import Result, Wanted
from datagen.download.listing import Line
from datagen.records import Problem, Tell

_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE problems (number INTEGER NOT NULL, kind TEXT NOT NULL);
CREATE TABLE images (
    number INTEGER PRIMARY KEY, pair_id TEXT NOT NULL UNIQUE, article INTEGER NOT NULL,
    url TEXT NOT NULL, member TEXT NOT NULL, selected INTEGER NOT NULL DEFAULT 0,
    reason TEXT, source TEXT, file TEXT, format TEXT, width INTEGER, height INTEGER,
    size_bytes INTEGER, sha256 TEXT
);
CREATE VIEW waiting AS
    SELECT * FROM images WHERE selected AND reason IS NULL AND sha256 IS NULL;
CREATE INDEX by_article ON images (article, number);
"""


@dataclass(frozen=True, slots=True)
class Article:
    """An archive, and the images that are still wanted of it."""

    key: int
    url: str
    wanted: tuple[Wanted, ...]


@dataclass(frozen=True, slots=True)
class Counts:
    """Of images.

    Args:
        selected: chosen for this call.
        waiting: those of them that have not been tried to the end.
        lacking: those of them that are missing or failed.
        done: of all calls.
        saved_bytes: of all that are done.
    """

    selected: int
    waiting: int
    lacking: int
    done: int
    saved_bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """What became of an image; `sha256` and the like where it is done."""

    number: int
    pair_id: str
    reason: str | None
    url: str
    file: str | None
    format: str | None
    width: int | None
    height: int | None
    size_bytes: int | None
    sha256: str | None


class Index:
    """Use it as a context manager.

    Args:
        file: made where it is missing.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._database = sqlite3.connect(file, isolation_level=None)
        self._last_article = -(2**63)

    def __enter__(self) -> "Index":
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.create_function("rank_of", 2, _rank_of, deterministic=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    @property
    def list_sha256(self) -> str | None:
        """Of the list that it holds as a whole; None: of none yet."""
        try:
            found = self._one("SELECT value FROM facts WHERE name = 'list_sha256'")
        except sqlite3.OperationalError:  # no such table
            return None
        return None if found is None else str(found)

    def fill(self, read: Callable[[Tell], Iterable[Line]], list_sha256: str) -> None:
        """Take the lines of a list, all or none.

        Args:
            read: gives the lines, and tells of those that are none.
        """
        problems: list[Problem] = []
        with self._transaction():
            for statement in filter(str.strip, _SCHEMA.split(";")):
                self._database.execute(statement)
            for line in read(problems.append):
                self._add(line, problems)
                if problems:
                    self._keep(problems)
            self._keep(problems)
            self._database.execute("INSERT INTO facts VALUES ('list_sha256', ?)", [list_sha256])

    def select(self, limit: int | None, sample: int | None, seed: int) -> int:
        """Choose images for this call, and return how many: the first ones, or a uniform sample.

        The sample is of the first ones where both are given. A larger sample of the same seed holds
        the smaller one.
        """
        last = self._one("SELECT max(number) FROM images") or 0
        if limit is not None:
            last = (
                self._one("SELECT number FROM images ORDER BY number LIMIT 1 OFFSET ?", limit - 1)
                or last
            )
        rank = None
        if sample is not None:
            rank = self._one(
                "SELECT rank_of(?, number) AS rank FROM images WHERE number <= ? "
                "ORDER BY rank LIMIT 1 OFFSET ?",
                *(seed, last, sample - 1),
            )
        with self._transaction():
            self._database.execute("UPDATE images SET selected = number <= ?", [last])
            if rank is not None:
                self._database.execute(
                    "UPDATE images SET selected = 0 WHERE selected AND rank_of(?, number) > ?",
                    [seed, rank],
                )
        return self._count("SELECT count(*) FROM images WHERE selected")

    def open_again(self, folder: Path, *, retry_failed: bool) -> int:
        """Let selected images wait again that are worth another try, or whose files are gone.

        Args:
            folder: the one in which files lie.
            retry_failed: also those that a server has refused for good.

        Returns:
            How many files were gone.
        """
        told = self._database.execute("SELECT DISTINCT reason FROM images WHERE reason NOT NULL")
        again = [
            reason
            for (reason,) in told.fetchall()
            if reason not in reasons.OF_THE_LINE
            and (retry_failed or not reasons.is_permanent(reason))
        ]
        gone: list[tuple[int]] = []
        kept = "SELECT number, file, size_bytes FROM images WHERE selected AND sha256 NOT NULL"
        for number, file, size_bytes in self._database.execute(kept):
            path = folder / file
            if not path.is_file() or path.stat().st_size != size_bytes:
                gone.append((number,))
        with self._transaction():
            for reason in again:
                self._database.execute(
                    "UPDATE images SET reason = NULL WHERE selected AND reason = ?", [reason]
                )
            self._database.executemany("UPDATE images SET sha256 = NULL WHERE number = ?", gone)
        return len(gone)

    def next_articles(self, most: int) -> list[Article]:
        """Return articles that have not been returned yet; empty: there are no more."""
        keys = self._database.execute(
            "SELECT DISTINCT article FROM waiting WHERE article > ? ORDER BY article LIMIT ?",
            [self._last_article, most],
        ).fetchall()
        if not keys:
            return []
        rows = self._database.execute(
            "SELECT article, url, number, pair_id, member FROM waiting "
            "WHERE article BETWEEN ? AND ? ORDER BY article, url, number",
            [keys[0][0], keys[-1][0]],
        )
        self._last_article = keys[-1][0]
        return [
            Article(key, url, tuple(Wanted(*row[2:]) for row in group))
            for (key, url), group in itertools.groupby(rows, key=lambda row: (row[0], row[1]))
        ]

    def record(self, results: Sequence[Result]) -> None:
        """Keep what became of images, in one transaction; their files are on the disk."""
        with self._transaction():
            for each in results:
                saved = each.saved
                values = (None,) * 6
                if saved is not None:
                    looks = saved.looks
                    values = (
                        *(saved.file, looks.format, looks.width, looks.height),
                        *(saved.size_bytes, saved.sha256),
                    )
                self._database.execute(
                    "UPDATE images SET reason = ?, source = ?, file = ?, format = ?, width = ?, "
                    "height = ?, size_bytes = ?, sha256 = ? WHERE number = ?",
                    (each.reason, each.url, *values, each.number),
                )

    def counts(self) -> Counts:
        """Count all images."""
        return Counts(
            selected=self._count("SELECT count(*) FROM images WHERE selected"),
            waiting=self.num_waiting(),
            lacking=self._count("SELECT count(*) FROM images WHERE selected AND reason NOT NULL"),
            done=self._count("SELECT count(*) FROM images WHERE sha256 NOT NULL"),
            saved_bytes=self._count("SELECT sum(size_bytes) FROM images WHERE sha256 NOT NULL"),
        )

    def num_waiting(self) -> int:
        """Return how many of those chosen have neither a file nor a reason."""
        return self._count("SELECT count(*) FROM waiting")

    def reason_counts(self) -> dict[str, int]:
        """Return how many images each reason has, the most frequent first."""
        return dict(
            self._database.execute(
                "SELECT reason, count(*) FROM images WHERE reason NOT NULL "
                "GROUP BY reason ORDER BY count(*) DESC, reason"
            )
        )

    def outcomes(self) -> Iterator[Row]:
        """Yield images that are done, or have a reason, in the list's order."""
        found = self._database.execute(
            "SELECT number, pair_id, reason, coalesce(source, url), file, format, width, height, "
            "size_bytes, sha256 FROM images WHERE reason NOT NULL OR sha256 NOT NULL"
            " ORDER BY number"
        )
        return (Row(*row) for row in found)

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong with the list, in its order."""
        found = self._database.execute("SELECT number, kind FROM problems ORDER BY number")
        return (Problem(*row) for row in found)

    def problem_counts(self) -> dict[str, int]:
        """Return how many lines have each kind of problem."""
        return dict(
            self._database.execute("SELECT kind, count(*) FROM problems GROUP BY kind ORDER BY 1")
        )

    def _add(self, line: Line, problems: list[Problem]) -> None:
        added = self._database.execute(
            "INSERT INTO images (number, pair_id, article, url, member, reason) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (line.number, line.pair_id, _key(line.url), line.url, line.member, line.reason),
        )
        if added.rowcount:
            return
        same = "SELECT 1 FROM images WHERE pair_id = ? AND url = ? AND member = ?"
        is_same = self._one(same, line.pair_id, line.url, line.member) is not None
        kind = "repeated line" if is_same else "pair_id of another image"
        problems.append(Problem(line.number, kind))

    def _keep(self, problems: list[Problem]) -> None:
        self._database.executemany(
            "INSERT INTO problems VALUES (?, ?)", [(each.number, each.kind) for each in problems]
        )
        problems.clear()

    def _count(self, query: str) -> int:
        return self._one(query) or 0

    def _one(self, query: str, *values: object) -> int | None:
        row = self._database.execute(query, values).fetchone()
        return None if row is None else row[0]

    @contextlib.contextmanager
    def _transaction(self) -> Generator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def _key(url: str) -> int:
    """Return a number of an article; their order mixes hosts, and is always the same."""
    return int.from_bytes(hashlib.blake2b(url.encode(), digest_size=8).digest(), signed=True)


def _rank_of(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{number}".encode(), digest_size=7).digest())
