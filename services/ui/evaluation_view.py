"""The evaluation that is shown: how far it is, its scores, its receipt and its files.

What does *not* live here: which one that is (`evaluation_tab.py`).
"""

import secrets
from collections.abc import Sequence
from typing import Any

import gradio as gr

from services.ui.context import Ui
from services.ui.conversation import now
from services.ui.evaluation_words import Told, can_be_cancelled, is_live, progress, scores
from services.ui.gateway_client import Gateway
from services.ui.gradio_parts import QUIET
from services.ui.html_tables import html_table
from services.ui.problems import GatewayError, Problem
from services.ui.receipts import kind_rows, made_with_rows, read_receipt

_FILES = {
    "receipt_file_id": "receipt.json",
    "output_file_id": "answers.jsonl",
    "error_file_id": "errors.jsonl",
}
_NOTHING = "<p>No evaluation is shown. Start one, or choose one above.</p>"


class EvaluationView:
    """Builds it within the current `gr.Blocks`.

    Its state is what the gateway last told of the evaluation, or None.
    """

    def __init__(self, ui: Ui) -> None:
        self._ui = ui
        self.shown = gr.State(None)
        self.away = gr.Markdown(visible=False, elem_id="evaluation-problem", elem_classes="problem")
        self.progress = gr.HTML(_NOTHING, elem_id="evaluation-progress")
        with gr.Row():
            self.cancel = gr.Button(
                "Cancel", variant="stop", size="sm", visible=False, scale=0, min_width=140,
                elem_id="evaluation-cancel",
            )  # fmt: skip
        self.scores = gr.HTML(elem_id="evaluation-scores")
        with gr.Accordion("Report", open=False, visible=False) as self.report:
            self.receipt = gr.HTML(elem_id="evaluation-receipt")
            self.fetch = gr.Button("Get its files", size="sm", elem_id="evaluation-files")
            self.files = gr.File(
                label="Receipt, answers, errors", file_count="multiple", interactive=False,
                visible=False, elem_id="evaluation-downloads",
            )  # fmt: skip

    @property
    def outputs(self) -> list[Any]:
        """What `show` and `problem` update."""
        return [
            self.shown, self.away, self.progress, self.cancel, self.scores, self.report,
            self.receipt, self.files,
        ]  # fmt: skip

    def attach(self, others: Sequence[Any]) -> None:
        """Join the buttons; `others` are outputs that a cancelled evaluation leaves alone."""
        self.cancel.click(self._on_cancel, self.shown, [*self.outputs, *others], **QUIET)
        self.fetch.click(
            self._on_fetch, self.shown, [self.files, self.away], show_progress="minimal",
            api_visibility="private",
        )  # fmt: skip

    async def show(
        self, gateway: Gateway, told: Told, before: Told | None = None
    ) -> dict[Any, Any]:
        """Return updates; raises GatewayError.

        Args:
            before: what is on the page already, of the same evaluation.
        """
        updates: dict[Any, Any] = {
            self.shown: dict(told),
            self.away: gr.update(visible=False),
            self.progress: progress(told, now().timestamp()),
            self.cancel: gr.update(visible=can_be_cancelled(told)),
        }
        if before is None or before.get("metrics") != told.get("metrics"):
            updates[self.scores] = scores(told)
        if before is None:
            updates[self.files] = gr.update(value=None, visible=False)
            updates[self.report] = gr.update(visible=not is_live(told))
            updates[self.receipt] = await _receipt_html(gateway, told)
        return updates

    def problem(self, problem: Problem) -> dict[Any, Any]:
        """Return updates that say what is wrong, and leave the rest."""
        return {self.away: gr.update(visible=True, value=problem.text())}

    async def _on_cancel(self, shown: Told | None, request: gr.Request) -> Any:
        if shown is None:
            return gr.skip()
        gateway = self._ui.gateway_of(request)
        try:
            told = await gateway.post(f"/evaluations/{shown['id']}/cancel", {})
            return await self.show(gateway, told, before=shown)
        except GatewayError as error:
            return self.problem(error.problem)

    async def _on_fetch(self, shown: Told | None, request: gr.Request) -> Any:
        if shown is None:
            return gr.skip()
        session = self._ui.session_of(request)
        gateway = self._ui.gateways.of(session.key)
        folder = self._ui.folder / "saved" / secrets.token_hex(16)
        folder.mkdir(parents=True, mode=0o700)
        files: list[str] = []
        try:
            for field, name in _FILES.items():
                if not shown.get(field):
                    continue
                file = folder / f"{shown['id']}-{name}"
                file.write_bytes(await gateway.content(shown[field]))
                self._ui.sessions.keep_file(session, file)
                files.append(str(file))
        except GatewayError as error:
            return self.problem(error.problem)
        return {self.files: gr.update(value=files or None, visible=bool(files))}


async def _receipt_html(gateway: Gateway, told: Told) -> str:
    """Return what a receipt says beside the scores."""
    if not told.get("receipt_file_id"):
        return "" if is_live(told) else "<p>It has no receipt.</p>"
    receipt = read_receipt(await gateway.content(told["receipt_file_id"]))
    if receipt is None:
        return "<p>Its receipt cannot be read by this page; its file can be had below.</p>"
    kinds = html_table(
        "By type of question", ("type", "metric", "mean", "questions"), kind_rows(receipt)
    )
    return kinds + html_table("What it was made with", ("fact", "value"), made_with_rows(receipt))
