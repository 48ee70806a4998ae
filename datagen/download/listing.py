"""Lines of a list of images: which archive, which of its members, and the name it gets.

A line of LLaVA-Med's `llava_med_image_urls.jsonl` has `pair_id`, `pmc_tar_url` and
`image_file_path` (docs/llava-med.md). What does *not* live here: keeping them (`index.py`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from datagen.download import reasons
from datagen.figures import is_safe_name
from datagen.records import Found, Problem, read_records

_FIELDS = ("pair_id", "pmc_tar_url", "image_file_path")
_MOST_CHARS = 2000


@dataclass(frozen=True, slots=True)
class Line:
    """One image of the list.

    Args:
        number: of its line, from 1.
        member: its name inside the archive.
        reason: why it can never be fetched; None: it can be.
    """

    number: int
    pair_id: str
    url: str
    member: str
    reason: str | None


def read_lines(path: Path, tell: Callable[[Problem], None]) -> Iterator[Line]:
    """Yield the lines of a list.

    Args:
        tell: is told of lines that are none.

    Raises:
        DataError: the file cannot be read at all.
    """
    for found in read_records(path, tell):
        line = _line_of(found)
        if line is None:
            tell(Problem(found.number, "no image of an article"))
        else:
            yield line


def _line_of(found: Found) -> Line | None:
    values: list[str] = []
    for field in _FIELDS:
        value = found.record.get(field)
        if not isinstance(value, str) or not 0 < len(value) <= _MOST_CHARS or not _is_text(value):
            return None
        values.append(value)
    pair_id, url, member = values
    member = member.removeprefix("./")
    return Line(found.number, pair_id, url, member, _reason(pair_id, url, member))


def _reason(pair_id: str, url: str, member: str) -> str | None:
    if not is_safe_name(pair_id):
        return reasons.UNSAFE_NAME
    if not is_safe_member(member):
        return reasons.UNSAFE_MEMBER
    return None if is_web_url(url) else reasons.BAD_URL


def is_safe_member(name: str) -> bool:
    """Whether a path stays inside of the folder in which it is taken."""
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name)


def is_web_url(url: str) -> bool:
    """Whether it is http or https, with a host."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate: neither a URL nor SQLite takes it
        return False
    return True
