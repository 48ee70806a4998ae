"""Prometheus's own checker of configurations and rules.

`make test` installs it where it may (the Makefile's DEBIAN_PACKAGES: prometheus).
"""

import shutil
import subprocess
from pathlib import Path

_LIMIT_S = 60


def promtool(*words: str | Path) -> str:
    """Run promtool; returns what it says, fails where it finds fault."""
    tool = shutil.which("promtool")
    assert tool is not None, "there is no promtool; `make test` installs it (package prometheus)"
    done = subprocess.run(
        [tool, *words], capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said
