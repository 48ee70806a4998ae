"""Files that are on the disk when a call returns, whatever happens to the machine's power then.

What does *not* live here: what is written (conversions' journals, checkpoints of training).
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def sync_to_disk(path: Path) -> None:
    """Return when a file, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unfinished_of(path: Path) -> Path:
    """Return where `write_json` writes until a file is whole."""
    return path.with_name(f"{path.name}.partial")


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write JSON, all of it or nothing, that is on the disk when this returns."""
    unfinished = unfinished_of(path)
    with unfinished.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
