"""A file of data counted: what it is, what it holds, what is wrong with it, in bounded memory.

What does *not* live here: what a record must be (`schemas.py`), words for the user
(`inspect_command.py`).
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datagen.captions.tables import open_table
from datagen.records import Found, Problem, Shape, read_records, shape_of
from datagen.schemas import (
    Schema,
    domains_told,
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


_TABLES: dict[str, Literal["CSV", "TSV", "Parquet"]] = {
    ".csv": "CSV",
    ".tsv": "TSV",
    ".parquet": "Parquet",
}


@dataclass(slots=True)
class Counted:
    """Counts of the records of one schema.

    Args:
        domains: a record of several counts for each.
        rounds: conversations by how many questions they have.
        values: of fields with few values.
        articles: digests of them.
        first: where the first records are, as a problem's.
    """

    domains: Counter[str] = field(default_factory=Counter[str])
    rounds: Counter[int] = field(default_factory=Counter[int])
    values: dict[str, Counter[str]] = field(default_factory=dict[str, Counter[str]])
    articles: set[int] = field(default_factory=set[int])
    num_misspelt: int = 0
    first: list[int] = field(default_factory=list[int])


@dataclass(slots=True)
class Contents:
    """What a file holds.

    Args:
        schemas: records of each schema; the most frequent one is the file's.
        counted: of the records of the file's schema: a stray one changes no count.
        problems: how many of each kind.
        first: where the first of them are, lines or records from 1.
    """

    shape: Shape | Literal["CSV", "TSV", "Parquet"]
    num_records: int = 0
    schemas: Counter[Schema] = field(default_factory=Counter[Schema])
    counted: Counted = field(default_factory=Counted)
    problems: Counter[str] = field(default_factory=Counter[str])
    first: dict[str, list[int]] = field(default_factory=dict[str, list[int]])

    @property
    def schema(self) -> Schema | None:
        """The file's; None: it holds nothing that is known."""
        return max(self.schemas, key=self.schemas.__getitem__, default=None)

    def as_json(self) -> dict[str, Any]:
        """Return it for other programs."""
        return {
            "shape": self.shape,
            "schema": self.schema,
            "records": self.num_records,
            "schemas": dict(self.schemas),
            "domains": dict(self.counted.domains),
            "rounds": {str(key): num for key, num in sorted(self.counted.rounds.items())},
            "values": {key: dict(value) for key, value in self.counted.values.items()},
            "articles": len(self.counted.articles),
            "misspelt_conversations": self.counted.num_misspelt,
            "problems": {
                kind: {"count": num, "first": self.first[kind]}
                for kind, num in self.problems.most_common()
            },
        }


def inspect(path: Path, encoding: str = "utf-8") -> Contents:
    """Read a file and count it; raises DataError where it cannot be read at all.

    Args:
        encoding: of CSV and TSV.
    """
    table = _TABLES.get(path.suffix.lower())
    counting = _Counting(Contents(table or shape_of(path)))
    if table is None:
        for found in read_records(path, counting.tell):
            counting.add(found)
    else:
        with open_table(path, encoding, counting.tell) as rows:
            for row in rows.rows:
                counting.add(Found(row.number, dict(row.values)))
    return counting.finished()


@dataclass(slots=True)
class _Counting:
    """Digests of 8 bytes stand for ids: 2e9 of them would collide once."""

    contents: Contents
    ids: set[int] = field(default_factory=set[int])
    counted: dict[Schema, Counted] = field(default_factory=dict[Schema, Counted])

    def finished(self) -> Contents:
        """Return the contents, now that it is known which schema is the file's."""
        contents = self.contents
        for schema, counted in self.counted.items():
            if schema == contents.schema:
                contents.counted = counted
                continue
            kind = f"another schema: {schema}"
            contents.problems[kind] = contents.schemas[schema]
            contents.first[kind] = counted.first
        return contents

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
        for kind in problems_of(record, schema, found.group):
            self.tell(Problem(found.number, kind))
        key = id_of(record, schema)
        if key is not None and schema != "VQA items":  # whose ids are often their images'
            digest = _digest(f"{schema}:{key}")
            if digest in self.ids:
                self.tell(Problem(found.number, "an id for the second time"))
            self.ids.add(digest)
        self._count(found, schema)

    def _count(self, found: Found, schema: Schema) -> None:
        record = found.record
        counted = self.counted.setdefault(schema, Counted())
        if len(counted.first) < _FIRST_LISTED:
            counted.first.append(found.number)
        counted.domains.update(domains_told(record, schema, found.group))
        counted.num_misspelt += has_misspelt_key(record)
        rounds = num_rounds(record)
        if rounds is not None:
            counted.rounds[rounds] += 1
        url = record.get("pmc_tar_url")
        if isinstance(url, str):
            counted.articles.add(_digest(url))
        for name in _COUNTED_FIELDS:
            value = record.get(name)
            if isinstance(value, str):
                counter = counted.values.setdefault(name, Counter())
                is_room = value in counter or len(counter) < _MOST_VALUES
                counter[value[:_MOST_VALUE_CHARS] if is_room else "others"] += 1


def _digest(text: str) -> int:
    raw = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest())
