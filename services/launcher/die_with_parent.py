"""Runs a command that Linux kills when its parent dies, however that came about.

    python -I -S die_with_parent.py PARENT_PID COMMAND ARGUMENT...

The death signal survives exec, so that this works for any program (redis-server too). It is run by
its path, and stands on nothing but the standard library. Elsewhere than on Linux it does nothing.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main() -> None:
    """Become the command."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before we asked
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - the command comes from our own launcher


if __name__ == "__main__":
    main()
