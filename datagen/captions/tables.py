"""Rows of a table, one at a time: CSV, TSV, JSON lines or lists, Parquet.

Memory holds a row, of Parquet a batch. A broken row is told and left out; behind a broken quote of
a CSV nothing can be found, so the table ends there, and that is told too. What does *not* live
here: what a row means (`columns.py`, `figure_rows.py`).
"""

import codecs
import csv
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from datagen.errors import DataError
from datagen.records import Problem, Tell, read_records

_MOST_CELL_CHARS = 1 << 20
_MOST_LINE_BYTES = 16 << 20
_BATCH_ROWS = 512
_BATCH_IMAGES = 16
_DELIMITERS = (",", "\t", ";")
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True)
class Row:
    """Values by column.

    Args:
        number: of the line where the row ends (CSV, JSON lines), else of the row; from 1.
    """

    number: int
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    Args:
        names: of its columns; None: each row has names of its own (JSON).
    """

    names: tuple[str, ...] | None
    rows: Iterator[Row]


@contextmanager
def open_table(file: Path, encoding: str, tell: Tell) -> Generator[Table]:
    """Give a table, by its file's name.

    Args:
        encoding: of CSV and TSV.
        tell: is told of rows that cannot be read.

    Raises:
        DataError: the file cannot be read, or is of no known kind.
    """
    match file.suffix.lower():
        case ".csv" | ".tsv":
            codec = _codec(encoding)
            with _opened(file) as stream:
                yield _csv_table(_lines(stream, file, codec), file, tell)
        case ".json" | ".jsonl":
            yield Table(None, _json_rows(file, tell))
        case ".parquet":
            yield _open_parquet(file)
        case _:
            raise DataError(f"{file} is no table; its name must end in {', '.join(SUFFIXES)}")


def _json_rows(file: Path, tell: Tell) -> Iterator[Row]:
    for found in read_records(file, tell):
        yield Row(found.number, found.record)


def _codec(encoding: str) -> str:
    try:
        name = codecs.lookup(encoding).name.removesuffix("-sig")  # a BOM is passed over anyway
        is_by_lines = "\n".encode(name) == b"\n"
    except (LookupError, UnicodeError, TypeError) as error:
        raise DataError(f"encoding {encoding!r} is unknown; for example utf-8, cp1252") from error
    if not is_by_lines:
        raise DataError(f"encoding {encoding!r} is not read; convert the table to UTF-8")
    return name


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); give a table") from error


def _csv_table(lines: Iterator[str], file: Path, tell: Tell) -> Table:
    csv.field_size_limit(_MOST_CELL_CHARS)
    first = next(lines, "")
    if not first.strip():
        raise DataError(f"{file} has no names of columns in its first line")
    delimiter = "\t" if file.suffix.lower() == ".tsv" else max(_DELIMITERS, key=first.count)
    names = tuple(name.strip() for name in next(csv.reader([first], delimiter=delimiter)))
    if len(set(names)) < len(names) or "" in names:
        raise DataError(f"{file} has a column without a name, or two of one name; rename it")
    return Table(names, _csv_rows(lines, names, delimiter, tell))


def _csv_rows(
    lines: Iterator[str], names: tuple[str, ...], delimiter: str, tell: Tell
) -> Iterator[Row]:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            number = reader.line_num + 1  # the names' line came before
            if not cells:
                continue
            if len(cells) == len(names):
                yield Row(number, dict(zip(names, cells, strict=True)))
            else:
                tell(Problem(number, f"{len(cells)} cells where {len(names)} columns have names"))
    except csv.Error as error:
        kind = f"broken quotes ({error}); nothing behind this line was read"
        tell(Problem(reader.line_num + 1, kind))


def _lines(stream: BinaryIO, file: Path, encoding: str) -> Iterator[str]:
    """Yield decoded lines; raises DataError with the number of one that cannot be decoded."""
    number = 0
    while raw := stream.readline(_MOST_LINE_BYTES):
        number += 1
        if number == 1:
            raw = raw.removeprefix(codecs.BOM_UTF8)
            if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise DataError(f"{file} is UTF-16; convert it to UTF-8")
        try:
            yield raw.decode(encoding)
        except UnicodeDecodeError as error:
            raise DataError(
                f"line {number} of {file} is not {encoding}; give its --encoding "
                "(for example cp1252), or convert it to UTF-8"
            ) from error


def _open_parquet(file: Path) -> Table:
    import pyarrow as arrow  # type: ignore[import-untyped, reportMissingTypeStubs]  # noqa: PLC0415 - heavy
    from pyarrow import parquet  # type: ignore[import-untyped, reportMissingTypeStubs]  # noqa: PLC0415

    reader: Any = parquet
    errors: Any = arrow
    try:
        opened = reader.ParquetFile(file)
        names = tuple(str(name) for name in opened.schema_arrow.names)
    except (OSError, errors.ArrowException) as error:
        raise DataError(f"{file} cannot be read as Parquet ({type(error).__name__})") from error
    return Table(names, _parquet_rows(file, opened, errors.ArrowException))


def _batch_rows(schema: Any) -> int:  # noqa: ANN401 - pyarrow has no types
    """Return how many rows are held at once: few where they hold bytes, which are images'."""
    return _BATCH_IMAGES if "binary" in str(schema.types) else _BATCH_ROWS


def _parquet_rows(file: Path, opened: Any, arrow_error: type[Exception]) -> Iterator[Row]:  # noqa: ANN401 - pyarrow has no types
    number = 0
    try:
        for batch in opened.iter_batches(batch_size=_batch_rows(opened.schema_arrow)):
            for values in batch.to_pylist():
                number += 1
                yield Row(number, values)
    except (OSError, arrow_error) as error:
        kind = type(error).__name__
        raise DataError(f"{file} is broken behind row {number} ({kind}); make it again") from error
