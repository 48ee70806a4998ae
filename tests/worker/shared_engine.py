"""One started engine for many checks, where a start is dear (vLLM: 20 s).

Every check gets an engine that looks fresh: its `start` binds its listeners to the one that runs
already, its `close` aborts what is left. The engine itself ends with its `EngineHost`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from modeling.adapter_files import AdapterFiles
from services.protocol.messages import EngineEvent, Failed, Finished, ModelCard
from services.worker.engines.base import EmitStep, Engine, EngineJob, EngineStats, StepProgress


class EngineHost:
    """Owns an engine and passes on what it says to whoever listens now."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.listener: SharedEngine | None = None
        self.card: ModelCard
        self.logs: Sequence[Mapping[str, Any]] = ()

    async def start(self) -> None:
        self.card = await self.engine.start(self._on_step, self)

    async def close(self) -> None:
        await self.engine.close()

    def shared(self) -> "SharedEngine":
        """A factory of engines for the checks of `engine_contract`."""
        return SharedEngine(self)

    def admitting(self, request_ids: Sequence[str]) -> None:
        if self.listener is not None:
            self.listener.progress.admitting(request_ids)

    def step_done(self) -> None:
        if self.listener is not None:
            self.listener.progress.step_done()

    def _on_step(self, events: Sequence[EngineEvent]) -> None:
        if self.listener is not None:
            self.listener.on_step(events)


class SharedEngine:
    """An engine whose start and close cost nothing."""

    def __init__(self, host: EngineHost) -> None:
        self._host = host
        self._open: set[str] = set()
        self.emit: EmitStep
        self.progress: StepProgress

    async def start(self, emit: EmitStep, progress: StepProgress) -> ModelCard:
        assert self._host.listener is None, "one check at a time"
        self.emit, self.progress = emit, progress
        self._host.listener = self
        return self._host.card

    def on_step(self, events: Sequence[EngineEvent]) -> None:
        self._open -= {e.request_id for e in events if isinstance(e, Finished | Failed)}
        self.emit(events)

    def submit(self, job: EngineJob) -> None:
        self._open.add(job.request.request_id)
        self._host.engine.submit(job)

    def abort(self, request_id: str) -> None:
        self._open.discard(request_id)
        self._host.engine.abort(request_id)

    async def load_adapter(self, adapter: AdapterFiles) -> None:
        await self._host.engine.load_adapter(adapter)

    async def unload_adapter(self, name: str) -> None:
        await self._host.engine.unload_adapter(name)

    def stats(self) -> EngineStats | None:
        return self._host.engine.stats()

    async def close(self) -> None:
        self._host.listener = None
        for request_id in self._open:
            self._host.engine.abort(request_id)
        self._open.clear()
