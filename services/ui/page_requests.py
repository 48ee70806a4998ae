"""What a page asks of Gradio, checked before Gradio reads it.

Gradio takes a file's path from the browser, opens whatever lies there or fetches it where it is a
URL, and knows a page by a name that stands in addresses. Here a path has to be one of the session's
own files, and a page's name belongs to the session that used it first.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs

from starlette.types import Message, Receive, Scope

from services.ui.sessions import Session, Sessions

API = "/gradio_api/"
_WITH_BODY = frozenset({f"{API}queue/join", f"{API}cancel", f"{API}reset"})
_HEARTBEAT = f"{API}heartbeat/"
_DATA = f"{API}queue/data"
_UPLOAD = f"{API}upload"
_MOST_BODY_BYTES = 4 << 20
_DEEPEST = 32


class PageRefusedError(Exception):
    """A request that Gradio does not get to see."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


async def check_request(
    session: Session, sessions: Sessions, scope: Scope, receive: Receive
) -> Receive:
    """Return what gives the request's body to Gradio, once it was looked at.

    Raises:
        PageRefusedError: it names a file or a page that is not the session's own, or is too large.
    """
    path = scope["path"].rstrip("/")
    if path in _WITH_BODY:
        body = await _read(receive)
        _check_body(body, session, sessions)
        return _again(body, receive)
    if path.startswith(_HEARTBEAT):
        _check_page(path.removeprefix(_HEARTBEAT), session, sessions)
    elif path == _DATA:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        for page in query.get("session_hash", [""]):
            _check_page(page, session, sessions)
    elif path == _UPLOAD:
        _check_room(scope, session, sessions)
    return receive


def _check_body(body: bytes, session: Session, sessions: Sessions) -> None:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise PageRefusedError(400, "the body is not JSON") from None
    if not isinstance(told, dict):
        raise PageRefusedError(400, "the body is not an object")
    fields = cast("dict[str, Any]", told)
    if "session_hash" in fields:
        _check_page(str(fields["session_hash"]), session, sessions)
    for path in _paths(fields, 0):
        if not isinstance(path, str) or not sessions.may_read(session, Path(path)):
            raise PageRefusedError(403, "that file was not uploaded here")


def _paths(value: Any, depth: int) -> Iterator[Any]:
    """Yield what files are named, wherever they stand; a file with an address only is none."""
    if depth > _DEEPEST:
        raise PageRefusedError(400, "the body is too deep")
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        if "path" in members or "meta" in members:
            yield members.get("path")
        for each in members.values():
            yield from _paths(each, depth + 1)
    elif isinstance(value, list):
        for each in cast("list[Any]", value):
            yield from _paths(each, depth + 1)


def _check_page(page: str, session: Session, sessions: Sessions) -> None:
    if not sessions.claim_page(session, page):
        raise PageRefusedError(404, "there is no such page")


def _check_room(scope: Scope, session: Session, sessions: Sessions) -> None:
    """Raise PageRefusedError where an upload would fill a session's share of the disk."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            if sessions.has_room(session, int(value)):
                return
            raise PageRefusedError(413, "there are too many uploads; begin a new conversation")
    raise PageRefusedError(411, "say the length of the upload")


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise PageRefusedError(400, "the request was cut off")
        body += message.get("body", b"")
        if len(body) > _MOST_BODY_BYTES:
            raise PageRefusedError(413, "the request is too large")
        if not message.get("more_body"):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that was read, and then what comes after it."""
    is_given = False

    async def receive_again() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again
