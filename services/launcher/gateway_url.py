"""The address of a gateway's API as users write it: with or without `/v1`, with or without a slash.

What does *not* live here: the addresses that `galen up` makes itself (`up.py`).
"""

from urllib.parse import urlsplit, urlunsplit

from services.launcher.terminal import CommandError

_VERSION = "v1"


def api_url(given: str) -> str:
    """Return the address of the API, which ends in `/v1`.

    Raises:
        CommandError: it is no http:// or https:// address.
    """
    try:
        parts = urlsplit(given.strip())
        _ = parts.port  # checked when it is read
    except ValueError:
        parts = urlsplit("")
    is_plain = not parts.query and not parts.fragment
    if parts.scheme not in {"http", "https"} or not parts.hostname or not is_plain:
        raise CommandError(
            f"{given!r} is not the URL of a gateway, such as http://127.0.0.1:8000/v1"
        )
    path = parts.path.rstrip("/")
    if path.rpartition("/")[2] != _VERSION:
        path = f"{path}/{_VERSION}"
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))
