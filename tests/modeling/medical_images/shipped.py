"""pydicom's own files, as they come with the package: real input."""

from collections.abc import Iterator
from pathlib import Path

import pydicom.data

ROOT = Path(pydicom.data.__file__).parent


def shipped_files() -> Iterator[Path]:
    """Every file that is no code."""
    for path in sorted(ROOT.rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc", ".json"):
            yield path


def shipped(name: str) -> bytes:
    return (ROOT / "test_files" / name).read_bytes()
