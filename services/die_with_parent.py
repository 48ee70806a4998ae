"""A process that Linux kills when its parent dies, however that came about.

A process of ours asks for it itself (`die_with_parent`). Any other program is started through this
file, run by its path and on nothing but the standard library; the death signal survives exec:

    python -I -S die_with_parent.py PARENT_PID COMMAND ARGUMENT...

vLLM's processes are started by vLLM: it calls `die_with_starter` in each of them, because
pyproject.toml names that as a plugin of vLLM (`vllm.general_plugins`).

Elsewhere than on Linux it does nothing.
"""

import ctypes
import multiprocessing
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent(parent_pid: int | None = None) -> None:
    """Ask for SIGKILL at the parent's death.

    Args:
        parent_pid: the parent that is meant; where it died before we asked, this process ends.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent_pid is not None and os.getppid() != parent_pid:
        sys.exit(1)


def die_with_starter() -> None:
    """In a process that `multiprocessing` started, ask for SIGKILL at its starter's death."""
    starter = multiprocessing.parent_process()
    if starter is not None:
        die_with_parent(starter.pid)


def main() -> None:
    """Become the command."""
    parent_pid, *command = sys.argv[1:]
    die_with_parent(int(parent_pid))
    os.execv(command[0], command)  # noqa: S606 - the command comes from our own launcher


if __name__ == "__main__":
    main()
