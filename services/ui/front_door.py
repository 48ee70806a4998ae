"""The outermost layer of the page: who may come in, and the headers of every response.

Pure ASGI. Only what the page needs of Gradio's routes is open: its own programming interface, its
proxy, its monitoring and its editor are 404 here. What does *not* live here: logging in
(`login.py`).
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterable
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.ui.page_requests import PageRefusedError, check_request
from services.ui.sessions import COOKIE, Session, Sessions
from services.ui.settings import UiSettings

LOGIN, LOGOUT, HEALTH = "/login", "/logout", "/healthz"
_FILE = "/gradio_api/file="
_UPLOAD = "/gradio_api/upload"
_WITHOUT_SESSION = re.compile(
    r"/(login|logout|healthz|favicon\.ico|theme\.css|static/.*|assets/.*)"
)
"""What tells nothing: the first three are ours, the others are files of Gradio itself."""
_OPEN = re.compile(
    r"/|/config|/app_id|/manifest\.json|/pwa_icon.*|/svelte/.*|/gradio_api/"
    r"(startup-events|app_id|login_check|upload(_progress)?|cancel|reset|heartbeat/[^/]*"
    r"|queue/(join|data)|file=.*)/?"
)
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "media-src 'self' blob:; connect-src 'self'; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
"""Gradio's page has inline scripts and builds functions of texts; what it may reach is itself."""
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),  # with none at all, forms are sent with `Origin: null`
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=()"),
)
_CORS = b"access-control-"
"""Gradio allows origins of its own choice."""
_ELSEWHERE = (b"cross-site", b"same-site")
_HSTS = (b"strict-transport-security", b"max-age=31536000")
_MOST_HEARD_BYTES = 1 << 20


class FrontDoor:
    """Wraps the page's application.

    Args:
        asks_for_no_key: whether whoever comes is let in, without a key.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: UiSettings,
        sessions: Sessions,
        asks_for_no_key: Callable[[], Awaitable[bool]],
    ) -> None:
        self._app = app
        self._settings = settings
        self._sessions = sessions
        self._asks_for_no_key = asks_for_no_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        send = self._with_headers(send, scope)
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        session = self._sessions.find(cookie_of(scope["headers"]))
        path = scope["path"]
        if session is None and not _WITHOUT_SESSION.fullmatch(path):
            if not await self._asks_for_no_key():
                await _to_login(scope)(scope, receive, send)
                return
            session = self._sessions.start(None, "")
            scope["headers"] = [
                *scope["headers"],
                (b"cookie", f"{COOKIE}={session.token}".encode()),
            ]
            send = _with_cookie(send, cookie_header(session, self._settings))
        scope["galen.session"] = session
        await self._serve(session, scope, receive, send)

    async def _serve(
        self, session: Session | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        path = scope["path"]
        if session is not None:
            file = Path(path.removeprefix(_FILE)) if path.startswith(_FILE) else None
            if file is not None and not self._sessions.may_read(session, file):
                await Response(status_code=404)(scope, receive, send)
                return
            try:
                receive = await check_request(session, self._sessions, scope, receive)
            except PageRefusedError as refusal:
                refused = JSONResponse({"detail": refusal.reason}, refusal.status)
                await refused(scope, receive, send)
                return
            if path.rstrip("/") == _UPLOAD:
                send = _hearing_uploads(send, session, self._sessions)
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        path, headers = scope["path"], dict(cast("list[tuple[bytes, bytes]]", scope["headers"]))
        if not (_WITHOUT_SESSION.fullmatch(path) or _OPEN.fullmatch(path)):
            return Response("there is no such page\n", 404)
        host = _name_of(headers.get(b"host", b""))
        allowed = self._settings.allowed_hosts or (
            _LOOPBACK_NAMES if self._settings.is_on_loopback else ()
        )
        if allowed and host not in allowed and path != HEALTH:
            return Response("this page is not served under that name\n", 403)
        if _is_from_elsewhere(headers):
            return Response("the request comes from another page\n", 403)
        return None

    def _with_headers(self, send: Send, scope: Scope) -> Send:
        own = [*_HEADERS, *((_HSTS,) if self._settings.secure_cookie else ())]
        names = {name for name, _ in own}
        is_fixed = scope["path"].startswith(("/static/", "/assets/", "/svelte/"))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                theirs = [
                    header
                    for header in message.get("headers", ())
                    if header[0].lower() not in names and not header[0].lower().startswith(_CORS)
                ]
                if not is_fixed:
                    theirs = [h for h in theirs if h[0].lower() != b"cache-control"]
                    theirs.append((b"cache-control", b"no-store"))
                message["headers"] = [*theirs, *own]
            await send(message)

        return send_with_headers


def cookie_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the session's cookie of a request."""
    for name, value in headers:
        if name == b"cookie":
            try:
                found = SimpleCookie(value.decode("latin-1")).get(COOKIE)
            except CookieError:
                continue
            if found is not None:
                return found.value
    return None


def cookie_header(session: Session, settings: UiSettings) -> bytes:
    """Return what sets a session's cookie; it ends with the browser."""
    secure = "; Secure" if settings.secure_cookie else ""
    return f"{COOKIE}={session.token}; Path=/; HttpOnly; SameSite=Strict{secure}".encode()


def _is_from_elsewhere(headers: dict[bytes, bytes]) -> bool:
    """Whether a page of another origin asks; to follow a link from there is no question of it."""
    origin = headers.get(b"origin")
    if origin is not None:
        return origin.partition(b"://")[2] != headers.get(b"host")
    is_link = headers.get(b"sec-fetch-mode") == b"navigate"
    return headers.get(b"sec-fetch-site") in _ELSEWHERE and not is_link


def _name_of(host: bytes) -> str:
    try:
        return urlsplit(f"//{host.decode('latin-1')}").hostname or ""
    except ValueError:
        return ""


def _to_login(scope: Scope) -> Response:
    if scope["method"] == "GET" and scope["path"] == "/":
        query = scope.get("query_string", b"").decode("latin-1")
        return RedirectResponse(f"{LOGIN}?{query}" if query else LOGIN, 303)
    return JSONResponse({"detail": "log in first"}, 401)


def _with_cookie(send: Send, cookie: bytes) -> Send:
    async def send_with_cookie(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"set-cookie", cookie)]
        await send(message)

    return send_with_cookie


def _hearing_uploads(send: Send, session: Session, sessions: Sessions) -> Send:
    """Note which files an upload has made, from Gradio's own answer: a list of paths."""
    heard = bytearray()

    async def send_and_hear(message: Message) -> None:
        if message["type"] == "http.response.body" and len(heard) < _MOST_HEARD_BYTES:
            heard.extend(message.get("body", b""))
            if not message.get("more_body"):
                _note(bytes(heard), session, sessions)
        await send(message)

    return send_and_hear


def _note(body: bytes, session: Session, sessions: Sessions) -> None:
    try:
        paths = json.loads(body)
    except ValueError:
        return  # a refusal, in plain text
    if isinstance(paths, list):
        named = [path for path in cast("list[object]", paths) if isinstance(path, str)]
        for path in named:
            sessions.keep_file(session, Path(path))
