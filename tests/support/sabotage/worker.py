"""A worker without some of its protections: python -m tests.support.sabotage.worker SWITCH..."""

import subprocess
import sys

from services.worker.main import Supervisor, main
from services.worker.settings import child_environment
from tests.support.sabotage.switches import throw


def _spawn_sabotaged_engine(self: Supervisor) -> "subprocess.Popen[bytes]":
    page = self._page
    command = [
        sys.executable, "-m", "tests.support.sabotage.engine", *sys.argv[1:],
        "--progress-fd", str(page.fd),
    ]  # fmt: skip
    return subprocess.Popen(command, pass_fds=[page.fd], env=child_environment())


if __name__ == "__main__":
    throw(sys.argv[1:])
    Supervisor._spawn = _spawn_sabotaged_engine
    main()
