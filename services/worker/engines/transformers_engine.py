"""The engine on Hugging Face transformers: any image-text-to-text checkpoint.

On a CPU, on one card, by layers on several (`--device-map auto`), or by parts of each layer on
several ranks (`tensor_parallel.py`).

Lives here: the `Engine` interface and the thread that loads the model and runs its steps. What does
*not* live here: what happens in a step (`batch_scheduler.py`).
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import torch

from modeling.adapter_files import AdapterFiles
from services.protocol.errors import RequestError
from services.protocol.messages import EngineEvent, Failed, Finished, ModelCard
from services.worker.engines.adapter_rows import AdapterRows, read_weights
from services.worker.engines.base import (
    PARAMETERS,
    EmitStep,
    EngineJob,
    EngineStartError,
    StepProgress,
    end_process,
)
from services.worker.engines.batch_scheduler import (
    BatchLimits,
    BatchScheduler,
    Submission,
    TicketedEvent,
)
from services.worker.engines.chat_prompt import PromptBuilder
from services.worker.engines.checkpoint import (
    Checkpoint,
    check_options,
    choose_device,
    load_checkpoint,
    text_config_of,
    weight_bytes,
)
from services.worker.engines.endings import failure_of
from services.worker.engines.guidance import Guide, GuideMaker
from services.worker.engines.image_inputs import tokens_per_image
from services.worker.engines.model_runner import ModelRunner, check_batching
from services.worker.engines.provenance import provenance_of
from services.worker.engines.tensor_parallel import RankGroup, ShardedRunner
from services.worker.load_options import LoadOptions
from services.worker.metrics import EngineStats

if TYPE_CHECKING:
    from concurrent.futures import Future

log = structlog.get_logger(__name__)

DEFAULT_LOAD = LoadOptions()
_NO_ADAPTERS = (
    "the transformers engine runs adapters on one rank only; "
    "take the vllm engine, or --tensor-parallel-size 1"
)


class TransformersEngine:
    """Iteration-level batching over a transformers model; see `base.Engine` for the contract.

    A request id that is submitted again replaces the earlier request of that id.

    Args:
        model_path: checkpoint directory in Hugging Face layout, safetensors only.
        model_id: the name it is served under.
        max_batch: sequences that run at once.
        load: how the checkpoint is loaded.
        max_images: per request.
        num_threads: torch's threads for this engine; None leaves torch's choice.
    """

    def __init__(
        self,
        model_path: Path,
        model_id: str,
        max_batch: int,
        *,
        load: LoadOptions = DEFAULT_LOAD,
        max_images: int = 16,
        num_threads: int | None = None,
    ) -> None:
        self._model_path = model_path
        self._model_id = model_id
        self._max_batch = max_batch
        self._options = load
        self._max_images = max_images
        self._num_threads = num_threads
        self._runner: ModelRunner | None = None
        self._ranks: RankGroup | None = None
        self._tickets = itertools.count()
        self._live: dict[str, int] = {}  # request id to ticket; on the loop's thread only
        self._wake = threading.Condition()
        self._submitted: list[Submission] = []  # the four below: under self._wake
        self._aborted: list[int] = []
        self._adapter_orders: list[Callable[[AdapterRows], None]] = []
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._emit: EmitStep
        self._guides: GuideMaker | None = None

    async def start(self, emit: EmitStep, progress: StepProgress) -> ModelCard:
        """Load the model in the engine's own thread and begin to step."""
        self._loop = loop = asyncio.get_running_loop()
        self._emit = emit
        ready: asyncio.Future[ModelCard] = loop.create_future()
        self._thread = threading.Thread(
            target=self._run, args=(loop, ready, emit, progress), name="engine-steps", daemon=True
        )
        self._thread.start()
        return await ready

    def submit(self, job: EngineJob) -> None:
        """Queue a request for the next step, or for the first after its grammar is compiled."""
        self.abort(job.request.request_id)
        ticket = next(self._tickets)
        self._live[job.request.request_id] = ticket
        submission = Submission(ticket, job, time.monotonic())
        sampling = job.request.sampling
        if sampling.json_schema is None:
            self._queue(submission)
        elif self._guides is not None:
            ordered = self._guides.order(sampling.json_schema, may_be_text=sampling.may_be_text)
            ordered.add_done_callback(
                lambda guide: _post(self._loop, self._compiled, submission, guide)
            )

    def _compiled(self, submission: Submission, guide: "Future[Guide]") -> None:
        """Queue a guided request, unless it was aborted or its schema is refused."""
        request = submission.job.request
        if self._live.get(request.request_id) != submission.ticket or guide.cancelled():
            return
        error = guide.exception()
        if error is None:
            self._queue(replace(submission, guide=guide.result()))
            return
        if not isinstance(error, RequestError):
            log.error("engine.grammar.failed", error=type(error).__name__)
        failed = failure_of(request, error)
        self._deliver(self._emit, [(submission.ticket, failed)])

    def _queue(self, submission: Submission) -> None:
        with self._wake:
            self._submitted.append(submission)
            self._wake.notify()

    def abort(self, request_id: str) -> None:
        """Forget a request; not one more event of it is emitted."""
        ticket = self._live.pop(request_id, None)
        if ticket is None:
            return
        with self._wake:
            self._aborted.append(ticket)
            self._wake.notify()

    async def load_adapter(self, adapter: AdapterFiles) -> None:
        """Read its weights in another thread, and put them in between two steps."""
        weights = await asyncio.to_thread(read_weights, adapter)
        await self._between_steps(lambda adapters: adapters.load(adapter, weights))

    async def unload_adapter(self, name: str) -> None:
        """Give it to no more requests; its memory is free when the last running one ends."""
        await self._between_steps(lambda adapters: adapters.forget(name))

    async def _between_steps(self, change: Callable[[AdapterRows], None]) -> None:
        """Make a change in the engine's thread; raises what it raises."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def make_change(adapters: AdapterRows) -> None:
            try:
                change(adapters)
            except Exception as error:  # noqa: BLE001 (reported to the caller)
                _post(loop, _settle, done, error)
            else:
                _post(loop, _settle, done, None)

        with self._wake:
            self._adapter_orders.append(make_change)
            self._wake.notify()
        await done

    def stats(self) -> EngineStats | None:
        """How full its rows are, how many images it encoded, and how many it had encoded before."""
        if self._runner is None:
            return None
        kept = self._runner.image_features
        return EngineStats(
            kv_cache_usage=self._runner.kv_cache_usage,
            images_encoded=kept.num_encoded,
            images_reused=kept.num_reused,
        )

    async def close(self) -> None:
        """Stop at the next step border; running requests are forgotten."""
        self._live.clear()
        if self._guides is not None:
            self._guides.close()
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
            self._thread = None

    def _run(
        self,
        loop: asyncio.AbstractEventLoop,
        ready: "asyncio.Future[ModelCard]",
        emit: EmitStep,
        progress: StepProgress,
    ) -> None:
        """Load, report, step until closed (the engine's thread, parent of the other ranks)."""
        try:
            self._load_and_step(loop, ready, emit, progress)
        finally:
            if self._ranks is not None:
                self._ranks.close()

    def _load_and_step(
        self,
        loop: asyncio.AbstractEventLoop,
        ready: "asyncio.Future[ModelCard]",
        emit: EmitStep,
        progress: StepProgress,
    ) -> None:
        try:
            scheduler, card = self._load()
        except Exception as error:  # noqa: BLE001 (reported to `start`)
            failure = error if isinstance(error, EngineStartError) else _start_error(error)
            _post(loop, _resolve, ready, failure)
            return
        _post(loop, _resolve, ready, card)
        try:
            while self._take_orders(scheduler):
                events = scheduler.step(progress)
                progress.step_done()
                if events and not _post(loop, self._deliver, emit, events):
                    return
        except Exception as error:  # noqa: BLE001 (no step may be made after a broken one)
            end_process(error)

    def _load(self) -> tuple[BatchScheduler, ModelCard]:
        if self._num_threads is not None:
            torch.set_num_threads(self._num_threads)
        started_s = time.monotonic()
        checkpoint, runner = self._load_runner()
        check_batching(runner, _probe_ids(checkpoint))
        self._runner = runner
        limits = BatchLimits(
            self._model_id,
            self._max_batch,
            checkpoint.context_length,
            max_images=self._max_images,
            eos_ids=checkpoint.eos_ids,
            stop_strings=checkpoint.stop_strings,
            vocab_size=text_config_of(checkpoint.model.config).vocab_size,
        )
        self._guides = GuideMaker(checkpoint.tokenizer, limits.vocab_size, checkpoint.eos_ids)
        scheduler = BatchScheduler(
            runner,
            PromptBuilder(checkpoint.processor, checkpoint.image_token_id, checkpoint.image_recipe),
            checkpoint.tokenizer,
            limits,
            AdapterRows(checkpoint.model, _NO_ADAPTERS if self._ranks is not None else None),
        )
        log.info(
            "engine.load.done",
            model=self._model_id,
            device=str(checkpoint.device),
            dtype=str(checkpoint.model.dtype),
            weight_bytes=weight_bytes(checkpoint.model),
            duration_s=round(time.monotonic() - started_s, 3),
        )
        return scheduler, self._card(checkpoint)

    def _load_runner(self) -> tuple[Checkpoint, ModelRunner]:
        """Load the model, on this rank alone or on all of them."""
        options = self._options
        if options.tensor_parallel_size > 1:
            check_options(self._model_path, options)
            device = choose_device(options.device).type
            self._ranks = RankGroup(options.tensor_parallel_size, device, self._num_threads)
            self._ranks.start(self._model_path, options.dtype, options.attention)
        checkpoint = load_checkpoint(self._model_path, options)
        rows, context = self._max_batch, checkpoint.context_length
        if self._ranks is None:
            kept_bytes = options.feature_cache_bytes
            return checkpoint, ModelRunner(checkpoint.model, rows, context, kept_bytes)
        return checkpoint, ShardedRunner(self._ranks, checkpoint.model, rows, context)

    def _card(self, checkpoint: Checkpoint) -> ModelCard:
        return ModelCard(
            id=self._model_id,
            engine="transformers",
            context_length=checkpoint.context_length,
            max_images=self._max_images,
            parameters=PARAMETERS,
            resumes=frozenset({"greedy", "sampling", "logprobs", "guided"}),
            image_recipe=checkpoint.image_recipe,
            image_tokens=tokens_per_image(checkpoint.processor, checkpoint.image_recipe),
            created=checkpoint.created,
            provenance=provenance_of(
                self._model_path,
                checkpoint.processor,
                dtype=checkpoint.model.dtype,
                quantization=self._options.quantization,
                libraries=("transformers", "torch"),
            ),
        )

    def _take_orders(self, scheduler: BatchScheduler) -> bool:
        """Wait for something to do and pass it on; False when the engine closes."""
        with self._wake:
            while not (
                self._submitted
                or self._aborted
                or self._adapter_orders
                or self._stopping
                or scheduler.has_work
            ):
                self._wake.wait()
            if self._stopping:
                return False
            submitted, self._submitted = self._submitted, []
            aborted, self._aborted = self._aborted, []
            changes, self._adapter_orders = self._adapter_orders, []
        for change in changes:
            change(scheduler.adapters)
        for submission in submitted:
            scheduler.submit(submission)
        for ticket in aborted:
            scheduler.abort(ticket)
        return True

    def _deliver(self, emit: EmitStep, events: Sequence[TicketedEvent]) -> None:
        """Emit a step's events, on the loop's thread, but none of aborted requests."""
        wanted: list[EngineEvent] = []
        for ticket, event in events:
            if self._live.get(event.request_id) != ticket:
                continue
            if isinstance(event, Finished | Failed):
                del self._live[event.request_id]
            wanted.append(event)
        if wanted:
            emit(wanted)


def _probe_ids(checkpoint: Checkpoint) -> list[int]:
    """Return ordinary tokens to compare prefill and decode with."""
    text = "one two three four five six seven eight nine ten"
    return list(checkpoint.tokenizer.encode(text, add_special_tokens=False))[:32]


def _resolve(ready: "asyncio.Future[ModelCard]", result: ModelCard | EngineStartError) -> None:
    if ready.done():  # `start` was cancelled
        return
    if isinstance(result, EngineStartError):
        ready.set_exception(result)
    else:
        ready.set_result(result)


def _settle(done: "asyncio.Future[None]", error: Exception | None) -> None:
    if done.done():  # whoever waited was cancelled
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _start_error(error: Exception) -> EngineStartError:
    log.error("engine.load.failed", error=type(error).__name__, exc_info=error)
    return EngineStartError(f"the model did not load: {type(error).__name__}; see the log above")


def _post(loop: asyncio.AbstractEventLoop, callback, *args: object) -> bool:  # noqa: ANN001
    """Call `callback` on the loop's thread; False when the loop is gone."""
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:  # the loop is closed: nobody is left to tell
        return False
    return True
