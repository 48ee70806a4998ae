"""How things stand, for the operator; nothing is asked of the gateway while the tab is closed.

What does *not* live here: reading (`status_reader.py`), and how it is told (`status_view.py`).
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import gradio as gr

from services.ui import status_view
from services.ui.context import Ui
from services.ui.gradio_parts import QUIET
from services.ui.problems import GatewayError, Problem
from services.ui.status_reader import Snapshot, StatusReader

_NAME = "Status"
_POLL_S = 3.0
_ABOUT = (
    "TTFT: time from a request's arrival to its first token; half of the answers (p50) and 95 of "
    "100 (p95) were as quick. Rates and errors are those of the one gateway that this page asks; "
    "workers, queues and hosts are the whole platform's."
)
_NO_KEY = Problem(
    "Only a key with the scope `admin` may see this, and nobody is logged in here.",
    "On the gateway's machine `galen models list` and `galen workers list` tell it, too.",
)
_REFUSED = frozenset(
    {"admin_forbidden", "insufficient_scope", "invalid_api_key", "missing_api_key"}
)
_BORROWED = (
    "Read with the key of `galen up`, which gives no orders here: use "
    "`galen workers cordon`, `uncordon` and `drain`."
)
_SURE = (
    "(worker, known) => [confirm('Drain ' + worker + '? It finishes what it runs, and ends.')"
    " ? worker : null, known]"
)


class StatusTab:
    """Builds the tab within the current `gr.Tabs`."""

    def __init__(self, ui: Ui, tabs: gr.Tabs) -> None:
        self._ui = ui
        self._reader = StatusReader(ui.gateways)
        with gr.Tab(_NAME, id="status", elem_id="tab-status") as tab:
            self._build()
        self._join(tabs, tab)

    def _build(self) -> None:
        self.timer = gr.Timer(_POLL_S, active=False)
        self.ids = gr.State([])
        self.summary = gr.Markdown("Asking the gateway ...", elem_id="status-summary")
        with gr.Column(visible=False) as self.group:
            self.workers = self._table("status-workers")
            self.borrowed = gr.Markdown(_BORROWED, visible=False)
            with gr.Row(visible=False, elem_id="status-orders") as self.orders:
                self.worker = gr.Dropdown(
                    [], label="Worker", allow_custom_value=True, elem_id="status-worker"
                )  # the one that was chosen may be gone
                self.cordon = gr.Button("Cordon", size="sm", elem_id="status-cordon")
                self.uncordon = gr.Button("Uncordon", size="sm", elem_id="status-uncordon")
                self.drain = gr.Button("Drain", variant="stop", size="sm", elem_id="status-drain")
            self.ordered = gr.Markdown(elem_id="status-ordered")
            self.queues = self._table("status-queues")
            self.rates = self._table("status-rates")
            self.cards = self._table("status-cards")
            self.errors = self._table("status-errors")
            gr.Markdown(_ABOUT)

    @staticmethod
    def _table(name: str) -> gr.HTML:
        return gr.HTML(elem_id=name, elem_classes="table", padding=False)

    @property
    def outputs(self) -> list[Any]:
        """All that a reading may change."""
        return [
            self.timer, self.summary, self.group, self.workers, self.borrowed, self.orders,
            self.worker, self.ids, self.queues, self.rates, self.cards, self.errors,
        ]  # fmt: skip

    def _join(self, tabs: gr.Tabs, tab: gr.Tab) -> None:
        def on_turn(chosen: gr.SelectData) -> Any:
            """Poll while the tab is open, and no longer."""
            return gr.Timer(active=chosen.value == _NAME)

        tabs.select(on_turn, None, self.timer, **QUIET)
        seen = [self.worker, self.ids]
        for trigger in (tab.select, self.timer.tick):
            trigger(self._on_look, seen, self.outputs, concurrency_limit=None, **QUIET)
        ordered = [self.ordered, *self.outputs]
        for button, order in ((self.cordon, "cordon"), (self.uncordon, "uncordon")):
            button.click(self._ordering(order), seen, ordered, **QUIET)
        self.drain.click(self._ordering("drain"), seen, ordered, js=_SURE, **QUIET)

    async def _on_look(
        self, worker: str | None, known: list[str], request: gr.Request
    ) -> dict[Any, Any]:
        key = await self._ui.admin_key_of(request)
        if key is None:
            return self._refused(_NO_KEY)
        try:
            snapshot = await self._reader.read(key)
        except GatewayError as error:
            if error.problem.code in _REFUSED:
                return self._refused(error.problem)
            # it is asked again; what was seen last stays, under a line that says so
            return {self.summary: f"**{error.problem.text()}**"}
        is_own = self._ui.session_of(request).key is not None
        return {
            **self._shown(snapshot, is_own=is_own),
            **self._menu(snapshot, worker, known),
        }

    def _refused(self, problem: Problem) -> dict[Any, Any]:
        """Say why nothing is seen, and ask no more until the tab is opened again."""
        return {
            self.timer: gr.Timer(active=False),
            self.summary: f"**{problem.text()}**",
            self.group: gr.update(visible=False),
        }

    def _menu(self, snapshot: Snapshot, worker: str | None, known: list[str]) -> dict[Any, Any]:
        """Return the workers to order, if they are not those that the menu has."""
        ids = sorted(each["id"] for each in snapshot.status["workers"])
        if ids == known:
            return {}
        chosen = worker if worker in ids else next(iter(ids), None)
        return {self.ids: ids, self.worker: gr.update(choices=ids, value=chosen)}

    def _shown(self, snapshot: Snapshot, *, is_own: bool) -> dict[Any, Any]:
        status = snapshot.status
        rates = (
            status_view.rates_view(snapshot.covered_s, snapshot.rates, snapshot.points)
            if snapshot.no_rates is None
            else status_view.no_rates(snapshot.no_rates.text())
        )
        return {
            self.summary: status_view.summary(status),
            self.group: gr.update(visible=True),
            self.workers: status_view.workers_table(status["workers"]),
            self.borrowed: gr.update(visible=not is_own),
            self.orders: gr.update(visible=is_own and bool(status["workers"])),
            self.queues: status_view.queues_table(status["queues"]),
            self.rates: rates,
            self.cards: status_view.cards_table(status["hosts"], status["gateway"]),
            self.errors: status_view.errors_table(snapshot.errors, datetime.now(UTC)),
        }

    def _ordering(
        self, order: str
    ) -> Callable[[str | None, list[str], gr.Request], Awaitable[dict[Any, Any]]]:
        """Return what a button does; a worker is ordered with the person's own key only."""

        async def on_order(
            worker: str | None, known: list[str], request: gr.Request
        ) -> dict[Any, Any]:
            key = self._ui.session_of(request).key
            if key is None or not worker:
                return gr.skip()
            path = f"/admin/workers/{quote(worker, safe='')}/{order}"
            try:
                done = await self._ui.gateways.of(key).post(path, {})
            except GatewayError as error:
                return {self.ordered: f"**{error.problem.text()}**"}
            self._reader.forget()
            return {
                self.ordered: f"`{worker}`: {done['note']}",
                **await self._on_look(worker, known, request),
            }

        return on_order
