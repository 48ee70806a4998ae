"""What every part of the page needs: whose request it is, and that person's gateway."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr
from openai.types import Model

from services.ui.gateway_client import Gateway, Gateways
from services.ui.problems import GatewayError, Problem
from services.ui.sessions import COOKIE, Session, Sessions
from services.ui.settings import UiSettings

_FRESH_S = 2.0
_KEY_IS_NEEDED = "missing_api_key"
_KEPT_KEYS = 256
_OF_PROXIES = ("forwarded", "x-forwarded-for", "x-real-ip")


@dataclass(frozen=True, slots=True)
class Served:
    """What the gateway serves, or why that is not known.

    Args:
        models: as they were when the gateway last answered.
    """

    models: tuple[Model, ...] = ()
    problem: Problem | None = None


@dataclass(slots=True)
class Ui:
    """Shared by all parts of the page.

    Args:
        folder: for uploads and pictures; it goes with this process.
    """

    settings: UiSettings
    sessions: Sessions
    gateways: Gateways
    folder: Path
    _served: dict[str | None, tuple[float, Served]] = field(
        default_factory=dict[str | None, tuple[float, Served]]
    )

    def session_of(self, request: gr.Request) -> Session:
        """Return whose request it is; raises gr.Error, which the page shows, where it is over."""
        session = self.sessions.find(request.cookies.get(COOKIE))
        if session is None:
            raise gr.Error("Your session is over. Reload the page to log in again.", duration=None)
        return session

    def gateway_of(self, request: gr.Request) -> Gateway:
        """Return the gateway with the key of the person who asks."""
        return self.gateways.of(self.session_of(request).key)

    async def admin_key_of(self, request: gr.Request) -> str | None:
        """Return what the gateway's administration is read with for a person; None: nothing.

        It is the person's own key. Where nobody is asked for one and only this machine can open the
        page, it is the operator's, which the browser never sees.
        """
        session = self.session_of(request)
        given = self.settings.admin_key
        if session.key is not None or given is None or not self.settings.is_local_only:
            return session.key
        if any(name in request.headers for name in _OF_PROXIES):
            return None
        served = await self.served_to(session)
        # a session that began before the first key was made is a stranger's now
        is_open = served.problem is None or served.problem.is_away
        return given.get_secret_value() if is_open else None

    async def served_to(self, session: Session) -> Served:
        """Return what is served, asked of the gateway at most every two seconds for each key."""
        asked_s, served = self._served.get(session.key, (-_FRESH_S, Served()))
        if time.monotonic() - asked_s < _FRESH_S:
            return served
        try:
            served = Served(tuple(await self.gateways.of(session.key).models()))
        except GatewayError as error:
            served = Served(served.models, error.problem)
            if session.key is None and error.problem.code == _KEY_IS_NEEDED:
                self.sessions.end(session)  # it began before the first key was made
        if len(self._served) >= _KEPT_KEYS:
            self._served.clear()
        self._served[session.key] = (time.monotonic(), served)
        return served
