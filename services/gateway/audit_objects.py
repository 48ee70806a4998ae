"""What a request was about, as the audit names it: a file, a key, a model, a worker. Pure.

    DELETE /v1/files/file-1                      file-1
    POST   /v1/admin/keys/galen_1/rotate         galen_1/rotate
    GET    /v1/admin/workers                     workers

What does *not* live here: ids of what a request made; its route knows them (`galen.object`).
"""

import re

from services.telemetry import redacted

MOST_OBJECT = 200
_ADMIN = "/v1/admin"
_PLAIN = re.compile(r"[A-Za-z0-9._:@+/-]+")


def object_of(route: str, path: str) -> str:
    """Return what stands behind a route in a path; below /v1/admin, behind its next part."""
    rest = path[len(route) + 1 :]
    if route == _ADMIN:
        kind, _, name = rest.partition("/")
        rest = name or kind
    return rest


def kept_object(name: str) -> str:
    """Return a name as it may be kept for ever; "" where it is too long, odd, or holds a secret."""
    if not name or len(name) > MOST_OBJECT or _PLAIN.fullmatch(name) is None:
        return ""
    return name if redacted(name) == name else ""
