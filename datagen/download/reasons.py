"""Why an image is not there: a closed set of codes, and which of them are worth another try.

What does *not* live here: who finds them (`fetching.py`, `extracting.py`, `listing.py`).
"""

from typing import Literal

from datagen.image_check import NO_IMAGE, TOO_MANY_PIXELS

Status = Literal["done", "missing", "failed"]

MEMBER_MISSING = "member-missing"
MEMBER_NO_FILE = "member-no-file"
MEMBER_TOO_LARGE = "member-too-large"
ARCHIVE_TOO_LARGE = "archive-too-large"
ARCHIVE_CORRUPT = "archive-corrupt"
NO_ARCHIVE = "no-archive"
UNSAFE_NAME = "unsafe-name"
UNSAFE_MEMBER = "unsafe-member"
BAD_URL = "bad-url"
NO_CONNECTION = "no-connection"
HOST_DEAD = "host-dead"
STALLED = "stalled"
TOO_SLOW = "too-slow"
CUT = "connection-cut"
BAD_REDIRECT = "bad-redirect"

OF_THE_LINE = (UNSAFE_NAME, UNSAFE_MEMBER, BAD_URL)
"""What no server can change."""
OF_THE_CONTENT = (ARCHIVE_CORRUPT, NO_ARCHIVE)
"""Often of the server, sometimes of the way: tried twice."""
_PERMANENT = {
    *OF_THE_LINE,
    MEMBER_MISSING,
    MEMBER_NO_FILE,
    MEMBER_TOO_LARGE,
    ARCHIVE_TOO_LARGE,
    NO_IMAGE,
    TOO_MANY_PIXELS,
}
_PASSING_HTTP = {408, 425, 429}
_MISSING = {MEMBER_MISSING, "http-404", "http-410"}


def of_http(status: int) -> str:
    """Return the code of a response that is no archive."""
    return f"http-{status}"


def status_of(reason: str) -> Status:
    """Return what an image without a file is: its host says that it is not there, or it failed."""
    return "missing" if reason in _MISSING else "failed"


def is_permanent(reason: str) -> bool:
    """Whether the same request would end in the same way."""
    if reason.startswith("http-"):
        status = int(reason.removeprefix("http-"))
        return 400 <= status < 500 and status not in _PASSING_HTTP
    return reason in _PERMANENT
