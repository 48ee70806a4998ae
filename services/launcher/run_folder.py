"""The folder of one run of `galen up`: a socket and a drawing, nothing of a user.

How such folders come and go stands in `services/private_folder.py`; the children of a launcher that
was killed die with it.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from services.launcher.terminal import CommandError
from services.private_folder import private_folder

PREFIX = "galen-up-"
_MOST_SOCKET_PATH_BYTES = 100  # of 108 in sockaddr_un (unix(7))


@contextmanager
def run_folder() -> Generator[Path, None, None]:
    """Yield a new folder of mode 0700, and remove it at the end."""
    with private_folder(PREFIX) as folder:
        if len(os.fsencode(folder)) > _MOST_SOCKET_PATH_BYTES - len("/redis.sock"):
            raise CommandError(
                f"the path of the temporary folder {folder.parent} is too long for a socket; "
                "set TMPDIR to a shorter one"
            )
        yield folder
