"""Which code and which libraries made a result.

What does *not* live here: where that is written (`finished.py`).
"""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from modeling.checkpoints.output_folder import tool

_LIBRARIES = ("torch", "transformers", "accelerate", "peft", "bitsandbytes", "safetensors")


def versions() -> dict[str, Any]:
    """Return what code and which libraries make the weights."""
    installed: dict[str, str] = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"tool": tool(), "commit": _commit(), "versions": installed}


def _commit() -> str | None:
    """Return the commit of this program's source, with `-dirty` where it was changed since.

    None: it was not run from a checkout of its own.
    """
    here = Path(__file__).parents[1]
    if not (here / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],  # noqa: S607
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return found.stdout.strip() or None
