"""The application: our own routes, Gradio's page below them, and the front door around both."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from pathlib import Path

import gradio as gr
from fastapi import FastAPI

from services.ui.assets_folder import text_of
from services.ui.context import Ui
from services.ui.front_door import FrontDoor
from services.ui.gateway_client import Gateways
from services.ui.login import Logins, make_router
from services.ui.page import build_page, theme
from services.ui.sessions import Sessions, remove_strays
from services.ui.settings import UiSettings

_SWEEP_EVERY_S = 30.0
_MOST_WAITING = 1024
_STRAY_S = 900.0
"""Longer than an upload takes, and than a copy that Gradio made is shown before it is noted."""


def create_app(settings: UiSettings, folder: Path) -> FrontDoor:
    """Return the whole page as an ASGI application.

    Args:
        folder: for uploads, as Gradio was told before it was imported.
    """
    sessions = Sessions(
        settings.session_hours * 3600, settings.idle_minutes * 60, settings.keep_closed_s
    )
    gateways = Gateways(settings.gateway_url, settings.answer_timeout_s)
    ui = Ui(settings, sessions, gateways, folder)
    logins = Logins(settings, gateways, sessions)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        sweeping = asyncio.create_task(_sweep_forever(sessions, folder))
        try:
            yield
        finally:
            sweeping.cancel()
            sessions.end_all()
            await gateways.close()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(make_router(settings, logins, sessions))
    page = build_page(ui)
    page.queue(api_open=False, max_size=_MOST_WAITING, default_concurrency_limit=settings.at_once)
    app = gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=settings.max_upload_mb * 1024 * 1024,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=text_of("page.css"),
        head=text_of("head.html"),
    )
    # what building the page has put there: copies of the drawn scans
    sessions.public_files = frozenset(each for each in folder.rglob("*") if each.is_file())
    page.has_launched = True  # else Gradio does not look at the paths that a browser names
    return FrontDoor(app, settings, sessions, logins.asks_for_no_key)


async def _sweep_forever(sessions: Sessions, folder: Path) -> None:
    while True:
        await asyncio.sleep(_SWEEP_EVERY_S)
        sessions.sweep()
        await asyncio.to_thread(remove_strays, folder, sessions.owned_files(), _STRAY_S)
