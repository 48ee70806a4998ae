"""The page: its tabs, what stands above them, and how it looks.

What does *not* live here: what each tab does.
"""

import html
from typing import Any

import gradio as gr
from gradio import themes

from services.ui.chat_tab import ChatTab
from services.ui.compare_tab import CompareTab
from services.ui.context import Served, Ui
from services.ui.conversation import DISCLAIMER
from services.ui.evaluation_tab import EvaluationTab
from services.ui.front_door import LOGOUT
from services.ui.gradio_parts import QUIET
from services.ui.sessions import COOKIE
from services.ui.status_tab import StatusTab

_POLL_S = 3.0
_TITLE = "Galen"


def theme() -> themes.Base:
    """Return colours and fonts: those of the system, so that nothing is fetched."""
    return themes.Base(
        primary_hue=themes.colors.cyan,
        secondary_hue=themes.colors.cyan,
        neutral_hue=themes.colors.slate,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_text_color="white",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
    )


def build_page(ui: Ui) -> gr.Blocks:
    """Return the page."""
    with gr.Blocks(title=_TITLE, analytics_enabled=False, fill_width=True) as page:
        with gr.Row(elem_id="top"):
            gr.Markdown(f"# {_TITLE}\n{DISCLAIMER}", elem_id="title")
            who = gr.HTML(elem_id="who")
        away = gr.Markdown(visible=False, elem_id="away", elem_classes="problem")
        chat, compare = _build_tabs(ui, page)
        watched = gr.State(Served())

        async def look(
            chosen: str | None,
            seen: Served,
            first: str | None,
            second: str | None,
            request: gr.Request,
        ) -> Any:
            """Follow the gateway: models, their states, and whether it is there at all."""
            session = ui.session_of(request)
            served = await ui.served_to(session)
            if served is seen or served == seen:
                return gr.skip()
            gone = served.problem
            banner = gr.update(visible=gone is not None, value=gone.text() if gone else "")
            menus = compare.updates(served, first, second)
            return [served, banner, *chat.models.updates(served, chosen), *menus]

        async def begin(request: gr.Request) -> Any:
            """Fill a page that was opened just now; `?model=` chooses."""
            session = ui.session_of(request)
            if request.session_hash:
                ui.sessions.open_page(session, request.session_hash)
            wanted = request.query_params.get("model")
            filled = await look(wanted, Served(problem=None), None, None, request)
            return [_who(session.name), *filled]

        def leave(request: gr.Request) -> None:
            """Count a page as closed; its session ends some time later."""
            session = ui.sessions.peek(request.cookies.get(COOKIE))
            if session is not None and request.session_hash:
                ui.sessions.close_page(session, request.session_hash)

        models = [watched, away, chat.models.model, chat.models.state, *compare.menus]
        page.load(begin, None, [who, *models], **QUIET)
        page.unload(leave)
        timer = gr.Timer(_POLL_S)
        seen = [chat.models.model, watched, *compare.menus]
        timer.tick(look, seen, models, concurrency_limit=None, **QUIET)
        chat.models.model.input(
            chat.models.describe, [chat.models.model, watched], chat.models.state, **QUIET
        )
    return page


def _build_tabs(ui: Ui, page: gr.Blocks) -> tuple[ChatTab, CompareTab]:
    """Return those tabs that follow what is served."""
    with gr.Tabs() as tabs:
        with gr.Tab("Chat", id="chat"):
            chat = ChatTab(ui)
        compare = CompareTab(ui)
        with gr.Tab("Evaluation", id="evaluation") as evaluation_tab:
            evaluation = EvaluationTab(ui)
        StatusTab(ui, tabs)
    evaluation.attach(page, evaluation_tab)
    return chat, compare


def _who(name: str) -> str:
    if not name:
        return "<span>Open to this machine only; no key is asked for.</span>"
    return (
        f"<span>{html.escape(name)}</span>"
        f'<form method="post" action="{LOGOUT}"><button type="submit">Log out</button></form>'
    )
