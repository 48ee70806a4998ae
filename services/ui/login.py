"""Logging in with an API key, and out: a page of our own before Gradio's.

The gateway is asked whether a key is good; it also says whether one is needed at all. What does
*not* live here: sessions (`sessions.py`), and what they open (`front_door.py`).
"""

import asyncio
import html
import time
from string import Template

import structlog
from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from services.ui.assets_folder import text_of
from services.ui.front_door import COOKIE, HEALTH, LOGIN, LOGOUT, cookie_header
from services.ui.gateway_client import Gateways
from services.ui.problems import GatewayError, Problem
from services.ui.sessions import Session, Sessions
from services.ui.settings import UiSettings

_log = structlog.get_logger()

_KNOWN_FOR_S = 5.0
_MOST_KEY = 200
_ASKS_FOR_KEY = frozenset({"missing_api_key", "invalid_api_key"})


class Logins:
    """Lets people in."""

    def __init__(self, settings: UiSettings, gateways: Gateways, sessions: Sessions) -> None:
        self._settings = settings
        self._gateways = gateways
        self._sessions = sessions
        self._is_open = False
        self._asked_s = -_KNOWN_FOR_S
        self._asking = asyncio.Lock()

    async def asks_for_no_key(self) -> bool:
        """Whether the gateway serves without a key, and this page may do so, too.

        A gateway that cannot be reached asks for one as far as is known: the page of the login says
        so, and tries again.
        """
        if self._settings.login == "required" or not self._settings.is_on_loopback:
            return False
        async with self._asking:
            if time.monotonic() - self._asked_s > _KNOWN_FOR_S:
                self._is_open = await self._why_not(None) is None
                self._asked_s = time.monotonic() if self._is_open else -_KNOWN_FOR_S
        return self._is_open

    async def log_in(self, key: str) -> Session | Problem:
        """Return a new session for a key, or why there is none."""
        if not key or len(key) > _MOST_KEY or not key.isascii() or not key.isprintable():
            return Problem("That is not an API key.", "It begins with galen_.")
        problem = await self._why_not(key)
        if problem is not None:
            return problem
        # the id of a key is public; of the operator's own one there is none
        name = key.rpartition("_")[0] if key.startswith("galen_") else "operator"
        _log.info("ui.login.done", key_id=name)
        return self._sessions.start(key, name)

    async def why_no_answer(self) -> Problem | None:
        """Return why the gateway does not answer; None: it does."""
        problem = await self._why_not(None)
        return problem if problem is not None and problem.is_away else None

    async def _why_not(self, key: str | None) -> Problem | None:
        try:
            await self._gateways.of(key).models()
        except GatewayError as error:
            return error.problem
        return None


def make_router(settings: UiSettings, logins: Logins, sessions: Sessions) -> APIRouter:
    """Return the routes before the page."""
    router = APIRouter(include_in_schema=False)

    @router.get(LOGIN)
    async def show_login(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction] - the router has it
        if await logins.asks_for_no_key():
            return RedirectResponse(_way_on(request), 303)
        return _page(await logins.why_no_answer())

    @router.post(LOGIN)
    async def log_in(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction] - as above
        form = await request.form(max_files=0, max_fields=4)
        found = await logins.log_in(str(form.get("key", "")).strip())
        if isinstance(found, Problem):
            return _page(found, 503 if found.is_away else 401)
        response = RedirectResponse(_way_on(request), 303)
        response.raw_headers.append((b"set-cookie", cookie_header(found, settings)))
        return response

    @router.post(LOGOUT)
    async def log_out(request: Request) -> Response:  # pyright: ignore[reportUnusedFunction] - as above
        session: Session | None = request.scope.get("galen.session")
        if session is not None:
            sessions.end(session)
        response = RedirectResponse(LOGIN, 303)
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
        return response

    @router.get(HEALTH)
    async def show_health() -> Response:  # pyright: ignore[reportUnusedFunction] - as above
        return JSONResponse({"status": "ok"})

    return router


def _way_on(request: Request) -> str:
    query = request.url.query
    return f"/?{query}" if query else "/"


def _page(problem: Problem | None, status: int = 200) -> Response:
    told = "" if problem is None else f'<p role="alert">{html.escape(problem.text())}</p>'
    again = '<meta http-equiv="refresh" content="5">' if problem and problem.is_away else ""
    page = Template(text_of("login.html")).substitute(problem=told, refresh=again)
    return HTMLResponse(page, status)
