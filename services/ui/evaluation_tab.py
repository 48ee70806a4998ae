"""The evaluation tab: benchmarks asked by the job workers, watched, read and compared.

An evaluation lives at the gateway: the tab finds it again after a reload, and it goes on without
the page. What does *not* live here: question files (`benchmark_files.py`), the one that is shown
(`evaluation_view.py`), two side by side (`compare_panel.py`).
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import gradio as gr
import structlog

from services.protocol.batch_lines import BatchInputError
from services.protocol.jobs import MAX_FILE_BYTES
from services.ui.benchmark_files import (
    DRAWN_SCANS,
    SUFFIX,
    Questions,
    benchmark_name,
    benchmarks_in,
    count_questions,
    cut,
    drawn_scans,
)
from services.ui.compare_panel import ComparePanel
from services.ui.context import Ui
from services.ui.evaluation_view import EvaluationView
from services.ui.evaluation_words import Told, is_live, label, list_table
from services.ui.gateway_client import Gateway
from services.ui.gradio_parts import QUIET, Given
from services.ui.model_list import first_choice
from services.ui.problems import GatewayError
from services.ui.sessions import Session

_log = structlog.get_logger()

_UPLOADED = "uploaded file"
_LISTED = "50"
_LOOK_S = 2.0


class _NothingToAskError(Exception):
    """What was chosen cannot be asked; the message says why."""


class EvaluationTab:
    """Builds the tab within the current `gr.Blocks`."""

    def __init__(self, ui: Ui) -> None:
        self._ui = ui
        self._folder = ui.settings.benchmarks_dir
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self._build_start()
            with gr.Column(scale=4, min_width=320):
                with gr.Row():
                    self.list = gr.Dropdown(
                        [], label="Evaluations, the newest first", elem_id="evaluation-list"
                    )
                    self.refresh = gr.Button(
                        "Refresh", size="sm", scale=0, min_width=110, elem_id="evaluation-refresh"
                    )
                self.view = EvaluationView(ui)
        with gr.Accordion("All evaluations", open=False):
            self.table = gr.HTML(elem_id="evaluation-table")
        self.compare = ComparePanel(ui)
        self.timer = gr.Timer(_LOOK_S, active=False)

    def _build_start(self) -> None:
        self.benchmark = gr.Dropdown(
            self._choices(has_upload=False), value=DRAWN_SCANS, label="Benchmark",
            elem_id="evaluation-benchmark",
        )  # fmt: skip
        self.about = gr.Markdown(elem_id="evaluation-about")
        self.file = gr.File(
            label=f"Or a question file of yours (*{SUFFIX}, up to "
            f"{self._ui.settings.max_upload_mb} MB)",
            file_types=[SUFFIX], file_count="single", height=140, elem_id="evaluation-file",
        )  # fmt: skip
        self.model = gr.Dropdown([], label="Model", elem_id="evaluation-model")
        self.size = gr.Number(
            0, label="Number of questions", info="The first ones; 0: all of them",
            precision=0, minimum=0, elem_id="evaluation-size",
        )  # fmt: skip
        with gr.Accordion("Decoding", open=False):
            self.temperature = gr.Slider(0, 2, 0, step=0.05, label="Temperature")
            self.max_tokens = gr.Slider(1, 1024, 64, step=1, label="Longest answer, in tokens")
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0)
        self.start = gr.Button("Start", variant="primary", elem_id="evaluation-start")
        self.said = gr.Markdown(elem_id="evaluation-said")

    def attach(self, page: gr.Blocks, tab: gr.Tab) -> None:
        """Fill the tab when the page is opened, and again whenever the tab is."""
        listed = [self.model, self.list, self.table, *self.compare.menus]
        outputs = [*listed, *self.view.outputs, self.timer]
        page.load(self._on_open, [self.view.shown, self.model], outputs, **QUIET)
        for trigger in (tab.select, self.refresh.click):
            trigger(self._on_open, [self.view.shown, self.model], outputs, **QUIET)
        page.load(self._on_choice, [self.benchmark, self.file], self.about, **QUIET)
        self.benchmark.input(self._on_choice, [self.benchmark, self.file], self.about, **QUIET)
        self.file.change(self._on_file, self.file, [self.benchmark, self.about], **QUIET)
        given = {
            self.benchmark, self.file, self.model, self.size, self.temperature, self.max_tokens,
            self.seed,
        }  # fmt: skip
        self.start.click(
            self._on_start, given, [self.said, self.start, *outputs], trigger_mode="once",
            **QUIET,
        )  # fmt: skip
        self.list.input(self._on_listed, self.list, [*self.view.outputs, self.timer], **QUIET)
        self.timer.tick(
            self._on_tick, [self.view.shown, self.model], outputs, concurrency_limit=None, **QUIET
        )
        self.view.attach([self.timer])

    async def _on_open(
        self, shown: Told | None, model: str | None, request: gr.Request
    ) -> dict[Any, Any]:
        """Fill menus and list; show the evaluation that was shown, else the newest that goes on."""
        session = self._ui.session_of(request)
        served = await self._ui.served_to(session)
        ids = [each.id for each in served.models]
        chosen = model if model in ids else first_choice(served.models)
        updates: dict[Any, Any] = {self.model: gr.update(choices=ids, value=chosen)}
        gateway = self._ui.gateways.of(session.key)
        try:
            evaluations = await _listed(gateway)
            if shown is not None:
                told = await gateway.get(f"/evaluations/{shown['id']}")
            else:
                told = next(filter(is_live, evaluations), None) or next(iter(evaluations), None)
        except GatewayError as error:
            return {**updates, **self.view.problem(error.problem)}
        updates |= self._list_updates(evaluations, told)
        if told is not None:
            updates |= await self.view.show(gateway, told)
            updates[self.timer] = gr.update(active=is_live(told))
        return updates

    async def _on_listed(self, evaluation_id: str | None, request: gr.Request) -> Any:
        """Show the evaluation that was chosen."""
        if not evaluation_id:
            return gr.skip()
        gateway = self._ui.gateway_of(request)
        try:
            told = await gateway.get(f"/evaluations/{evaluation_id}")
            shown = await self.view.show(gateway, told)
        except GatewayError as error:
            return self.view.problem(error.problem)
        return {**shown, self.timer: gr.update(active=is_live(told))}

    async def _on_tick(
        self, shown: Told | None, model: str | None, request: gr.Request
    ) -> dict[Any, Any]:
        """Follow the evaluation that is shown; the lists, too, when its state is another one."""
        if shown is None:
            return {self.timer: gr.update(active=False)}
        gateway = self._ui.gateway_of(request)
        try:
            told = await gateway.get(f"/evaluations/{shown['id']}")
            if told["status"] == shown["status"]:
                return await self.view.show(gateway, told, before=shown)
        except GatewayError as error:
            return self.view.problem(error.problem)
        return await self._on_open(told, model, request)

    async def _on_choice(self, benchmark: str | None, file: str | None, request: gr.Request) -> str:
        """Say how many questions a benchmark has, or what is wrong with it."""
        session = self._ui.session_of(request)
        try:
            num = await asyncio.to_thread(self._count, session, benchmark, file)
        except (_NothingToAskError, OSError, BatchInputError) as error:
            return f"**{_why(error)}**"
        return f"{num} questions."

    async def _on_file(self, file: str | None, request: gr.Request) -> dict[Any, Any]:
        """Choose a file that was uploaded; without one, the drawn scans."""
        chosen = _UPLOADED if file else DRAWN_SCANS
        choices = self._choices(has_upload=bool(file))
        return {
            self.benchmark: gr.update(choices=choices, value=chosen),
            self.about: await self._on_choice(chosen, file, request),
        }

    async def _on_start(self, given: Given, request: gr.Request) -> AsyncGenerator[dict[Any, Any]]:
        """Cut the questions, upload them, and start an evaluation."""
        session = self._ui.session_of(request)
        gateway = self._ui.gateways.of(session.key)
        yield {self.said: "Reading the questions ...", self.start: gr.update(interactive=False)}
        done: dict[Any, Any] = {self.start: gr.update(interactive=True)}
        try:
            questions = await asyncio.to_thread(self._cut, session, given)
            yield {self.said: f"Uploading {questions.num} questions ..."}
            told = await _begin(gateway, questions, self._wanted(given))
        except (_NothingToAskError, OSError, BatchInputError) as error:
            yield {**done, self.said: f"**Not started. {_why(error)}**"}
            return
        except GatewayError as error:
            yield {**done, self.said: f"**Not started. {error.problem.text()}**"}
            return
        _log.info("ui.evaluation.started", evaluation_id=told["id"], questions=questions.num)
        yield {**done, self.said: f"Started: `{told['id']}`. It goes on without this page."}
        yield await self._on_open(told, given[self.model], request)

    def _wanted(self, given: Given) -> dict[str, Any]:
        """Return the body of POST /v1/evaluations, but for its file."""
        benchmark = str(given[self.benchmark])
        if benchmark == _UPLOADED:
            benchmark = benchmark_name(str(given[self.file]))
        return {
            "model": given[self.model],
            "benchmark": benchmark,
            "decoding": {
                "temperature": given[self.temperature],
                "max_tokens": int(given[self.max_tokens]),
                "seed": int(given[self.seed] or 0),
            },
        }

    def _list_updates(self, evaluations: list[Told], told: Told | None) -> dict[Any, Any]:
        choices = [(label(each), each["id"]) for each in evaluations]
        if told is not None and all(told["id"] != each["id"] for each in evaluations):
            choices.append((label(told), told["id"]))
        return {
            self.list: gr.update(choices=choices, value=None if told is None else told["id"]),
            self.table: list_table(evaluations),
            **self.compare.updates(evaluations),
        }

    def _choices(self, *, has_upload: bool) -> list[tuple[str, str]]:
        names = {DRAWN_SCANS: "drawn scans that ship with Galen"}
        names |= {name: name for name in benchmarks_in(self._folder)}
        if has_upload:
            names[_UPLOADED] = _UPLOADED
        return [(shown, name) for name, shown in names.items()]

    def _cut(self, session: Session, given: Given) -> Questions:
        if not given[self.model]:
            raise _NothingToAskError("Choose a model first; the operator loads one.")
        most = int(given[self.size] or 0) or None
        with self._opened(session, given[self.benchmark], given[self.file]) as file:
            questions = cut(file, most)
        if len(questions.content) > MAX_FILE_BYTES:
            raise _NothingToAskError(
                f"These questions have {len(questions.content) // 10**6} MB with their images, and "
                f"an upload may have {MAX_FILE_BYTES // 10**6}; ask fewer of them."
            )
        return questions

    def _count(self, session: Session, benchmark: str | None, file: str | None) -> int:
        with self._opened(session, benchmark, file) as opened:
            return count_questions(opened)

    def _opened(self, session: Session, benchmark: str | None, upload: str | None) -> BinaryIO:
        if benchmark == DRAWN_SCANS:
            return drawn_scans()
        if benchmark == _UPLOADED:
            if upload is None or not self._ui.sessions.may_read(session, Path(upload)):
                raise _NothingToAskError("Upload the question file again; it is gone.")
            return Path(upload).open("rb")
        file = benchmarks_in(self._folder).get(benchmark or "")
        if file is None:
            raise _NothingToAskError("Choose a benchmark; its file is not there any more.")
        return file.open("rb")


async def _listed(gateway: Gateway) -> list[Told]:
    """Return the newest evaluations of this person's tenant."""
    return (await gateway.get("/evaluations", {"limit": _LISTED}))["data"]


async def _begin(
    gateway: Gateway, questions: Questions, wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """Upload questions and make an evaluation of them; what it cannot use is deleted again."""
    uploaded = await gateway.upload("questions.jsonl", questions.content, "evaluation")
    try:
        return await gateway.post("/evaluations", {"input_file_id": uploaded.id, **wanted})
    except GatewayError:
        await gateway.delete(uploaded.id)
        raise


def _why(error: Exception) -> str:
    match error:
        case BatchInputError():
            return f"The question file is refused: {error.message}."
        case OSError():
            return f"The question file cannot be read: {error.strerror}."
        case _:
            return str(error)
