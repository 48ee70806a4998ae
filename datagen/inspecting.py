"""A file of data counted: what it is, what it holds, what is wrong with it, in bounded memory.

What does *not* live here: what a record must be (`schemas.py`), words for the user
(`inspect_command.py`).
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datagen.figures import domains_of
from datagen.records import Found, Problem, Shape, read_records, shape_of
from datagen.schemas import (
    Schema,
    has_misspelt_key,
    id_of,
    num_rounds,
    problems_of,
    schema_of,
)

_FIRST_LISTED = 5
_COUNTED_FIELDS = ("answer_type", "type", "status", "reason", "format", "model_id")
_MOST_VALUES = 50
"""Of a field that is counted by its values; further ones count as `others`."""
_MOST_VALUE_CHARS = 60


@dataclass(slots=True)
class Contents:
    """What a file holds.

    Args:
        schemas: records of each schema; the first one met is the file's.
        domains: a record of several counts for each.
        rounds: conversations by how many questions they have.
        values: of fields with few values.
        problems: how many of each kind.
        first: where the first of them are, lines or records from 1.
    """

    shape: Shape
    num_records: int = 0
    schemas: Counter[Schema] = field(default_factory=Counter[Schema])
    domains: Counter[str] = field(default_factory=Counter[str])
    rounds: Counter[int] = field(default_factory=Counter[int])
    values: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    num_articles: int = 0
    num_misspelt: int = 0
    problems: Counter[str] = field(default_factory=Counter[str])
    first: dict[str, list[int]] = field(default_factory=dict[str, list[int]])

    @property
    def schema(self) -> Schema | None:
        """The file's; None: it holds nothing that is known."""
        return next(iter(self.schemas), None)

    def as_json(self) -> dict[str, Any]:
        """Return it for other programs."""
        return {
            "shape": self.shape,
            "schema": self.schema,
            "records": self.num_records,
            "schemas": dict(self.schemas),
            "domains": dict(self.domains),
            "rounds": {str(key): self.rounds[key] for key in sorted(self.rounds)},
            "values": {key: dict(value) for key, value in self.values.items()},
            "articles": self.num_articles,
            "misspelt_conversations": self.num_misspelt,
            "problems": {
                kind: {"count": num, "first": self.first[kind]}
                for kind, num in self.problems.most_common()
            },
        }


def inspect(path: Path) -> Contents:
    """Read a file and count it; raises DataError where it cannot be read at all."""
    counting = _Counting(Contents(shape_of(path)))
    for found in read_records(path, counting.tell):
        counting.add(found)
    counting.contents.num_articles = len(counting.articles)
    return counting.contents


@dataclass(slots=True)
class _Counting:
    """Digests of 8 bytes stand for ids: 2e9 of them would collide once."""

    contents: Contents
    ids: set[int] = field(default_factory=set[int])
    articles: set[int] = field(default_factory=set[int])

    def tell(self, problem: Problem) -> None:
        contents = self.contents
        contents.problems[problem.kind] += 1
        listed = contents.first.setdefault(problem.kind, [])
        if len(listed) < _FIRST_LISTED:
            listed.append(problem.number)

    def add(self, found: Found) -> None:
        contents, record = self.contents, found.record
        contents.num_records += 1
        schema = schema_of(record)
        if schema is None:
            self.tell(Problem(found.number, "no known schema"))
            return
        contents.schemas[schema] += 1
        if schema != contents.schema:
            self.tell(Problem(found.number, f"another schema: {schema}"))
        for kind in problems_of(record, schema, found.group):
            self.tell(Problem(found.number, kind))
        key = id_of(record, schema)
        if key is not None and schema != "VQA items":  # whose ids are often their images'
            digest = _digest(f"{schema}:{key}")
            if digest in self.ids:
                self.tell(Problem(found.number, "an id for the second time"))
            self.ids.add(digest)
        self._count(found)

    def _count(self, found: Found) -> None:
        contents, record = self.contents, found.record
        contents.domains.update(domains_of(record.get("domain"), found.group))
        contents.num_misspelt += has_misspelt_key(record)
        rounds = num_rounds(record)
        if rounds is not None:
            contents.rounds[rounds] += 1
        url = record.get("pmc_tar_url")
        if isinstance(url, str):
            self.articles.add(_digest(url))
        for name in _COUNTED_FIELDS:
            value = record.get(name)
            if isinstance(value, str):
                counter = contents.values.setdefault(name, Counter())
                is_room = value in counter or len(counter) < _MOST_VALUES
                counter[value[:_MOST_VALUE_CHARS] if is_room else "others"] += 1


def _digest(text: str) -> int:
    raw = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest())
