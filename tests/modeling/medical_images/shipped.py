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


def jpeg_extended_with_a_sign() -> bytes:
    """A file of pydicom's in lossy JPEG of 12 bits, said to hold signed values: it is not taken."""
    unsigned = b"\x28\0\x03\1US\2\0\0\0"  # pixel representation
    return shipped("JPEG-lossy.dcm").replace(unsigned, unsigned[:-2] + b"\1\0")
