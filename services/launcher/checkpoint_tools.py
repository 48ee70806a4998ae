"""`galen convert` and `galen inspect`: this process becomes the tool, which needs torch.

The launcher itself never loads it.
"""

import os
import sys
from collections.abc import Sequence
from typing import Literal


def run_tool(name: Literal["convert", "inspect"], arguments: Sequence[str]) -> None:
    """Become the tool."""
    sys.stdout.flush()
    command = [sys.executable, "-m", f"modeling.checkpoints.{name}_command", *arguments]
    os.execv(sys.executable, command)  # noqa: S606 - our own module
