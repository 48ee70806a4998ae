"""Which models there are, as the worker directory said at the last heartbeat."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from services.protocol.errors import ErrorCode, NotFoundError, UnavailableError
from services.protocol.messages import ModelCard, WorkerRecord

GONE_AFTER_S = 60.0
"""A model without a worker for longer is unavailable; until then requests wait for a respawn."""


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model and those who serve it now."""

    card: ModelCard
    workers: tuple[WorkerRecord, ...]


class ModelCatalogue:
    """A snapshot of the directory that answers without I/O."""

    def __init__(self) -> None:
        self._entries: dict[str, CatalogueEntry] = {}
        self._last_served: dict[str, float] = {}

    def update(self, workers: Sequence[WorkerRecord], seen: Sequence[WorkerRecord]) -> None:
        """Take a new snapshot: workers with a lease, and the last worker of each model."""
        now = time.monotonic()
        cards = {record.model.id: record.model for record in seen}
        cards.update({record.model.id: record.model for record in workers})
        self._entries = {
            model: CatalogueEntry(card, tuple(w for w in workers if w.model.id == model))
            for model, card in cards.items()
        }
        for record in workers:
            self._last_served[record.model.id] = now

    def list(self) -> list[CatalogueEntry]:
        """Return all models that have a worker, by name."""
        return [self._entries[name] for name in sorted(self._entries) if self._is_served(name)]

    def find(self, model: str) -> CatalogueEntry:
        """Return a model that is served, or was until a moment ago.

        Raises:
            NotFoundError: no worker ever served it.
            UnavailableError: its workers have been gone for `GONE_AFTER_S`.
        """
        entry = self._entries.get(model)
        if entry is None:
            names = ", ".join(sorted(n for n in self._entries if self._is_served(n))) or "none yet"
            raise NotFoundError(
                ErrorCode.MODEL_NOT_FOUND,
                f"the model {model[:80]!r} does not exist; served here: {names[:400]}",
                param="model",
            )
        if not self._is_served(model):
            raise UnavailableError(
                ErrorCode.BACKEND_UNAVAILABLE,
                f"no worker serves the model {model!r} at the moment; try again later",
                param="model",
                retry_after_s=10.0,
            )
        return entry

    @property
    def has_ready_worker(self) -> bool:
        """Whether any worker is ready, its lease renewed by progress."""
        return any(w.state == "ready" for e in self._entries.values() for w in e.workers)

    def _is_served(self, model: str) -> bool:
        return time.monotonic() - self._last_served.get(model, -GONE_AFTER_S) < GONE_AFTER_S
