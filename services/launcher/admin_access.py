"""Where `galen models` and `galen workers` find a running `galen up` of the same user, and its key.

The launcher leaves a file of mode 0600 in its run folder (mode 0700), which goes with it.
"""

import json
import os
import secrets
import tempfile
from dataclasses import dataclass
from pathlib import Path

from services.launcher.gateway_url import api_url
from services.launcher.run_folder import PREFIX
from services.launcher.terminal import CommandError
from services.private_folder import living_folders

_FILE = "admin.json"
_KEY_BYTES = 24


@dataclass(frozen=True, slots=True)
class AdminAccess:
    """A gateway's API and the key of its administration."""

    url: str
    key: str


def new_key() -> str:
    """Return a random key."""
    return secrets.token_urlsafe(_KEY_BYTES)


def leave_access(folder: Path, access: AdminAccess) -> None:
    """Write the access into a run folder, for this user alone."""
    descriptor = os.open(folder / _FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"url": access.url, "key": access.key}, file)


def find_access(url: str | None, key: str | None) -> AdminAccess:
    """Return the access that was given, completed from what running launchers have left.

    Raises:
        CommandError: nothing was found, or more than one; or `url` is none.
    """
    url = None if url is None else api_url(url)
    if url is not None and key is not None:
        return AdminAccess(url, key)
    found = [access for access in _left() if url is None or access.url == url]
    if not found:
        where = f"at {url} " if url else ""
        raise CommandError(
            f"no `galen up` of yours {where}was found on this machine; start one, "
            "or say --url and --admin-key (GALEN_ADMIN_KEY)"
        )
    if len(found) > 1:
        raise CommandError(
            "more than one `galen up` of yours is running; say which with --url",
            sorted(access.url for access in found),
        )
    return AdminAccess(found[0].url, key or found[0].key)


def _left() -> list[AdminAccess]:
    found: list[AdminAccess] = []
    for folder in living_folders(Path(tempfile.gettempdir()), PREFIX):
        try:
            left = json.loads((folder / _FILE).read_text(encoding="utf-8"))
            found.append(AdminAccess(str(left["url"]), str(left["key"])))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it is just starting or ending
    return found
