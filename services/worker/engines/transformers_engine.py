"""The engine on Hugging Face transformers: any image-text-to-text checkpoint, on CPU or one GPU.

Lives here: the `Engine` interface and the thread that loads the model and runs its steps. What does
*not* live here: what happens in a step (`batch_scheduler.py`).
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import structlog
import torch

from services.protocol.messages import EngineEvent, Failed, Finished, ModelCard
from services.worker.engines.base import (
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
from services.worker.engines.checkpoint import Checkpoint, load_checkpoint
from services.worker.engines.model_runner import ModelRunner, check_batching

log = structlog.get_logger(__name__)

MAX_IMAGES = 16

PARAMETERS = frozenset(
    {
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "n",
        "stop",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "logprobs",
        "top_logprobs",
    }
)


class TransformersEngine:
    """Iteration-level batching over a transformers model; see `base.Engine` for the contract.

    A request id that is submitted again replaces the earlier request of that id.

    Args:
        model_path: checkpoint directory in Hugging Face layout, safetensors only.
        model_id: the name it is served under.
        max_batch: sequences that run at once.
        dtype: "auto" (the checkpoint's), "float32", "bfloat16" or "float16".
        device: "auto" (a GPU if there is one), "cpu", "cuda:0", …
        max_context: tokens; lowers the checkpoint's own context length.
        num_threads: torch's threads for this engine; None leaves torch's choice.
    """

    def __init__(  # noqa: PLR0913 (an operator's settings, by name)
        self,
        model_path: Path,
        model_id: str,
        max_batch: int,
        *,
        dtype: str = "auto",
        device: str = "auto",
        max_context: int | None = None,
        num_threads: int | None = None,
    ) -> None:
        self._model_path = model_path
        self._model_id = model_id
        self._max_batch = max_batch
        self._dtype = dtype
        self._device = device
        self._max_context = max_context
        self._num_threads = num_threads
        self._tickets = itertools.count()
        self._live: dict[str, int] = {}  # request id to ticket; on the loop's thread only
        self._wake = threading.Condition()
        self._submitted: list[Submission] = []  # the three below: under self._wake
        self._aborted: list[int] = []
        self._stopping = False
        self._thread: threading.Thread | None = None

    async def start(self, emit: EmitStep, progress: StepProgress) -> ModelCard:
        """Load the model in the engine's own thread and begin to step."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[ModelCard] = loop.create_future()
        self._thread = threading.Thread(
            target=self._run, args=(loop, ready, emit, progress), name="engine-steps", daemon=True
        )
        self._thread.start()
        return await ready

    def submit(self, job: EngineJob) -> None:
        """Queue a request for the next step."""
        self.abort(job.request.request_id)
        ticket = next(self._tickets)
        self._live[job.request.request_id] = ticket
        with self._wake:
            self._submitted.append(Submission(ticket, job, time.monotonic()))
            self._wake.notify()

    def abort(self, request_id: str) -> None:
        """Forget a request; not one more event of it is emitted."""
        ticket = self._live.pop(request_id, None)
        if ticket is None:
            return
        with self._wake:
            self._aborted.append(ticket)
            self._wake.notify()

    async def close(self) -> None:
        """Stop at the next step border; running requests are forgotten."""
        self._live.clear()
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
        """Load, report, step until closed (the engine's thread)."""
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
        checkpoint = load_checkpoint(self._model_path, self._dtype, self._device, self._max_context)
        runner = ModelRunner(checkpoint.model, self._max_batch, checkpoint.context_length)
        check_batching(runner, _probe_ids(checkpoint))
        limits = BatchLimits(
            self._model_id, self._max_batch, checkpoint.context_length, max_images=MAX_IMAGES
        )
        scheduler = BatchScheduler(
            runner,
            PromptBuilder(checkpoint.processor, checkpoint.image_token_id),
            checkpoint.tokenizer,
            checkpoint.eos_ids,
            limits,
        )
        log.info(
            "engine.load.done",
            model=self._model_id,
            device=str(checkpoint.device),
            dtype=str(checkpoint.model.dtype),
            duration_s=round(time.monotonic() - started_s, 3),
        )
        return scheduler, self._card(checkpoint)

    def _card(self, checkpoint: Checkpoint) -> ModelCard:
        return ModelCard(
            id=self._model_id,
            engine="transformers",
            context_length=checkpoint.context_length,
            max_images=MAX_IMAGES,
            parameters=PARAMETERS,
            resumes=frozenset({"greedy", "sampling", "logprobs"}),
            image_recipe=checkpoint.image_recipe,
            created=checkpoint.created,
        )

    def _take_orders(self, scheduler: BatchScheduler) -> bool:
        """Wait for something to do and pass it on; False when the engine closes."""
        with self._wake:
            while not (self._submitted or self._aborted or self._stopping or scheduler.has_work):
                self._wake.wait()
            if self._stopping:
                return False
            submitted, self._submitted = self._submitted, []
            aborted, self._aborted = self._aborted, []
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
