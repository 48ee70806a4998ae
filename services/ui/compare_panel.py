"""Two evaluations that have ended, side by side.

What does *not* live here: what their receipts say (`receipts.py`).
"""

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr

from services.ui.context import Ui
from services.ui.evaluation_words import Told, label, score_tables
from services.ui.gateway_client import Gateway
from services.ui.html_tables import Series, html_table, warning
from services.ui.problems import GatewayError, Problem
from services.ui.receipts import (
    Receipt,
    difference_rows,
    made_with_differences,
    read_receipt,
    why_not_comparable,
)

_NO_RECEIPT = Problem("It has no receipt; only evaluations that were scored can be compared.")
_NOT_READ = Problem("Its receipt cannot be read by this page.")
_HINT = (
    "<p>The interval of a difference, and whether it may be chance, is told by "
    "<code>galen evaluate compare FIRST SECOND</code> with both receipts' files.</p>"
)


class ComparePanel:
    """Builds the panel within the current `gr.Blocks`."""

    def __init__(self, ui: Ui) -> None:
        self._ui = ui
        with gr.Accordion("Compare two evaluations", open=True, elem_id="evaluation-compared"):
            with gr.Row():
                self.first = gr.Dropdown([], label="First", elem_id="evaluation-compare-first")
                self.second = gr.Dropdown([], label="Second", elem_id="evaluation-compare-second")
            self.compare = gr.Button("Compare", elem_id="evaluation-compare")
            self.result = gr.HTML(elem_id="evaluation-comparison")
        self.compare.click(
            self._on_compare, [self.first, self.second], self.result, show_progress="minimal",
            api_visibility="private",
        )  # fmt: skip

    @property
    def menus(self) -> list[Any]:
        """What `updates` are for."""
        return [self.first, self.second]

    def updates(self, evaluations: Sequence[Told]) -> dict[Any, Any]:
        """Return updates of both menus: what has a receipt."""
        choices = [(label(told), told["id"]) for told in evaluations if told["receipt_file_id"]]
        return {menu: gr.update(choices=choices) for menu in self.menus}

    async def _on_compare(self, first: str | None, second: str | None, request: gr.Request) -> str:
        if not first or not second or first == second:
            return "<p>Choose two different evaluations that have ended.</p>"
        gateway = self._ui.gateway_of(request)
        try:
            found = [await receipt_of(gateway, each) for each in (first, second)]
        except GatewayError as error:
            return f'<p class="problem">{html.escape(error.problem.text())}</p>'
        return comparison(first, second, *found)


async def receipt_of(gateway: Gateway, evaluation_id: str) -> Receipt:
    """Return the receipt of an evaluation; raises GatewayError where it has none."""
    told = await gateway.get(f"/evaluations/{evaluation_id}")
    if not told.get("receipt_file_id"):
        raise GatewayError(_NO_RECEIPT)
    receipt = read_receipt(await gateway.content(told["receipt_file_id"]))
    if receipt is None:
        raise GatewayError(_NOT_READ)
    return receipt


def comparison(first_id: str, second_id: str, first: Receipt, second: Receipt) -> str:
    """Return two receipts side by side, as HTML."""
    names = [
        f"{place}: {receipt['model']} ({evaluation_id[-6:]})"
        for place, receipt, evaluation_id in (("1", first, first_id), ("2", second, second_id))
    ]
    reasons = why_not_comparable(first, second)
    loud = ""
    difference = "difference in points"
    if reasons:
        loud = warning("These two are not comparable. They differ in:", reasons)
        difference += " (not comparable)"
    runs = [
        Series(name, receipt["metrics"])
        for name, receipt in zip(names, (first, second), strict=True)
    ]
    header = ("metric", "version", *names, difference, "questions better", "questions worse")
    return (
        loud
        + score_tables("Second less first", runs, difference_rows(first, second), header)
        + _HINT
        + html_table(
            "What they were made with, where it differs",
            ("fact", *names),
            made_with_differences(first, second),
        )
    )
