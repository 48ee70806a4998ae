"""The folder of LoRA adapters that a worker watches: one folder in it is one adapter.

What appears there is checked (`modeling/adapter_files.py`) and loaded, what disappears is unloaded,
while requests run. A folder is taken when two looks in a row found it the same, so one that is
being copied is left alone; what is refused is said once, and again when it has changed. Polling,
because the folder may lie on a network file system, where changes made elsewhere are not announced.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from modeling.adapter_files import CONFIG_FILE, AdapterError, AdapterFiles, open_adapter
from modeling.checkpoint_files import CheckpointFiles, open_checkpoint, sampled_fingerprint
from services.protocol.errors import ErrorCode
from services.protocol.messages import AdapterCard, Failed, GenerationRequest, ModelCard
from services.worker.engines.base import Engine
from services.worker.settings import WorkerSettings

_log = structlog.get_logger()

_LOOK_EVERY_S = 1.0
_SETTLE_S = 0.5
"""To the second look at what is new, so that it is loaded or refused within 2 s."""

Signature = tuple[tuple[str, int, int], ...]
"""Name, size and time of change of each file of a folder."""


@dataclass(slots=True)
class _Base:
    """The model that adapters are compared with; its fingerprint is computed once."""

    files: CheckpointFiles | None
    fingerprint: str = ""

    def get_fingerprint(self) -> str:
        """Return `sampled_fingerprint`; "" where the engine has no weights."""
        if not self.fingerprint and self.files is not None:
            self.fingerprint = sampled_fingerprint(self.files)
        return self.fingerprint


class AdapterFolder:
    """Keeps an engine's adapters as the folder has them; used on the event loop.

    Args:
        on_change: called when the list of loaded adapters is another.
    """

    def __init__(
        self, settings: WorkerSettings, engine: Engine, on_change: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._on_change = on_change
        self._base = _Base(None)
        self._looking = asyncio.Lock()
        self._found: dict[str, Signature] = {}  # at the last look
        self._tried: dict[str, Signature] = {}  # loaded or refused, as it was then
        self._loaded: dict[str, AdapterCard] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._is_readable = True

    async def start(self) -> None:
        """Load what is there; returns at once where no folder is set."""
        if self._settings.adapters_dir is not None and self._settings.model_path is not None:
            self._base.files = await asyncio.to_thread(open_checkpoint, self._settings.model_path)
        await self.look(is_settled=True)

    async def run(self) -> None:
        """Watch for ever; cancelled at the worker's end."""
        while True:
            await asyncio.sleep(self.next_look_s)
            await self.look()

    @property
    def next_look_s(self) -> float:
        """Seconds until the next look: fewer where the last one found something new."""
        return _LOOK_EVERY_S if self._found == self._tried else _SETTLE_S

    def has(self, name: str | None) -> bool:
        """Whether requests with this adapter can run; None is the base, which always can."""
        return name is None or name in self._loaded

    def on_card(self, card: ModelCard) -> ModelCard:
        """Return the engine's card with the adapters that are loaded now."""
        if not self._loaded:
            return card
        adapters = tuple(self._loaded[name] for name in sorted(self._loaded))
        return msgspec.structs.replace(card, adapters=adapters)

    async def refusal(self, request: GenerationRequest) -> Failed | None:
        """Return the end of a request whose adapter is not there, not even at a second look."""
        if not self.has(request.adapter):
            await self.look(is_settled=True)
        if self.has(request.adapter):
            return None
        _log.warning("adapter.unknown", adapter=request.adapter, request_id=request.request_id)
        return Failed(
            request.request_id,
            request.attempt,
            ErrorCode.MODEL_NOT_FOUND,
            f"this worker has no adapter {request.adapter!r}; its folder of adapters must hold "
            "the same as that of every other worker of the model",
            param="model",
        )

    async def look(self, *, is_settled: bool = False) -> None:
        """Compare the folder, where one is set, with what is loaded.

        Args:
            is_settled: take a new folder at once, not at the second look.
        """
        folder = self._settings.adapters_dir
        if folder is None:
            return
        async with self._looking:
            try:
                found = await asyncio.to_thread(_folders, folder)
            except OSError as error:
                if self._is_readable:  # said once; what is loaded stays
                    _log.error("adapters.unreadable", folder=str(folder), cause=str(error))
                self._is_readable = False
                return
            self._is_readable = True
            before = self._found
            self._found = found
            for name in sorted(before.keys() - found.keys()):
                self._leave(name)
            for name, signature in sorted(found.items()):
                if self._tried.get(name) != signature and (
                    is_settled or before.get(name) == signature
                ):
                    self._tried[name] = signature
                    await self._take(folder / name)

    async def _take(self, path: Path) -> None:
        """Check and load one folder; one that is refused leaves its earlier state in place."""
        began = time.monotonic()
        try:
            adapter = await asyncio.to_thread(self._open, path)
            self._check_name(adapter)
            await self._engine.load_adapter(adapter)
            created = int((path / CONFIG_FILE).stat().st_mtime)
            weights = CheckpointFiles(path, {}, adapter.tensors)
            fingerprint = await asyncio.to_thread(sampled_fingerprint, weights)
        except Exception as error:  # noqa: BLE001 - whatever is in a folder, the worker serves on
            is_plain = isinstance(error, AdapterError | OSError)
            _log.error(
                "adapter.refused",
                adapter=path.name,
                cause=str(error) if is_plain else type(error).__name__,
                still_serves_earlier=path.name in self._loaded,
            )
            return
        self._loaded[adapter.name] = AdapterCard(
            adapter.name, adapter.served_id, adapter.is_base_verified, created, fingerprint
        )
        _log.info(
            "adapter.loaded",
            adapter=adapter.name,
            served_id=adapter.served_id,
            rank=adapter.rank,
            duration_s=round(time.monotonic() - began, 3),
        )
        if not adapter.is_base_verified:
            _log.warning(
                "adapter.base.unverified",
                adapter=adapter.name,
                notice="unverified base: it fits by its shapes, but names no base_fingerprint",
            )
        self._on_change()

    def _open(self, path: Path) -> AdapterFiles:
        settings = self._settings
        return open_adapter(
            path,
            self._base.files,
            settings.model_id,
            settings.max_lora_rank,
            self._base.get_fingerprint,
        )

    def _check_name(self, adapter: AdapterFiles) -> None:
        """Raise AdapterError where its name is taken."""
        taken = {card.served_id: name for name, card in self._loaded.items()}
        taken[self._settings.model_id] = "the base model"
        owner = taken.get(adapter.served_id, adapter.name)
        if owner != adapter.name:
            raise AdapterError(
                f"{adapter.path}: the name {adapter.served_id!r} is taken by {owner}; "
                "choose another served_id"
            )

    def _leave(self, name: str) -> None:
        """Take no more requests for an adapter; it is freed when those that run have ended."""
        self._tried.pop(name, None)
        if self._loaded.pop(name, None) is None:
            return
        # What was refused because of it may be taken now.
        self._tried = {each: tried for each, tried in self._tried.items() if each in self._loaded}
        _log.info("adapter.unloaded", adapter=name)
        task = asyncio.create_task(self._engine.unload_adapter(name))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        self._on_change()


def _folders(folder: Path) -> dict[str, Signature]:
    """Return the adapters' folders with what tells a change; hidden ones are left out.

    Raises:
        OSError: the folder is not readable.
    """
    return {
        each.name: _signature(each)
        for each in folder.iterdir()
        if each.is_dir() and not each.name.startswith(".")
    }


def _signature(folder: Path) -> Signature:
    try:
        return tuple(
            (file.name, status.st_size, status.st_mtime_ns)
            for file in sorted(folder.iterdir())
            for status in (file.stat(),)
        )
    except OSError:  # it is going away, or a link in it leads nowhere
        return ()
