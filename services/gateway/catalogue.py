"""Which models there are, as the worker directory said at the last heartbeat."""

import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

import structlog

from services.protocol.errors import ErrorCode, NotFoundError, UnavailableError
from services.protocol.messages import AdapterCard, ModelCard, Resumable, WorkerRecord

_log = structlog.get_logger()

GONE_AFTER_S = 60.0
"""A model without a worker for longer is unavailable; until then requests wait for a respawn."""


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model and those who serve it now.

    Args:
        card: of the base model, where this is an adapter.
        adapter: None: the base model itself.
    """

    card: ModelCard
    workers: tuple[WorkerRecord, ...]
    adapter: AdapterCard | None = None

    @property
    def id(self) -> str:
        """The name that clients ask for."""
        return self.card.id if self.adapter is None else self.adapter.served_id


class ModelCatalogue:
    """A snapshot of the directory that answers without I/O."""

    def __init__(self) -> None:
        self._entries: dict[str, CatalogueEntry] = {}
        self._last_served: dict[str, float] = {}
        self._workers: tuple[WorkerRecord, ...] = ()
        self._unloaded: frozenset[str] = frozenset()
        self._refused: frozenset[str] = frozenset()

    def update(
        self,
        workers: Sequence[WorkerRecord],
        seen: Sequence[WorkerRecord],
        unloaded: Set[str] = frozenset(),
    ) -> None:
        """Take a new snapshot.

        A model that had a worker less than `GONE_AFTER_S` ago stays, though nobody says any more
        that it was there: a Redis that came back empty knows its workers again in a moment.

        Args:
            workers: those with a lease.
            seen: the last worker of each model.
            unloaded: models that are not served any more, though a worker may still end its work.
        """
        now = time.monotonic()
        self._workers = tuple(sorted(workers, key=lambda record: record.worker_id))
        self._unloaded = frozenset(unloaded)
        workers = [record for record in workers if record.model.id not in unloaded]
        cards = {
            name: entry.card
            for name, entry in self._entries.items()
            if entry.adapter is None and self._is_served(name) and name not in unloaded
        }
        cards.update({record.model.id: record.model for record in seen})
        cards.update({record.model.id: record.model for record in workers})
        models = {
            model: CatalogueEntry(card, tuple(w for w in workers if w.model.id == model))
            for model, card in cards.items()
        }
        self._entries = self._with_adapters(models)
        for record in workers:
            self._last_served[record.model.id] = now

    def list(self) -> list[CatalogueEntry]:
        """Return all models and adapters that have a worker, by name."""
        return [self._entries[name] for name in self._names()]

    def find(self, model: str) -> CatalogueEntry:
        """Return a model that is served, or was until a moment ago.

        Raises:
            NotFoundError: no worker ever served it.
            UnavailableError: its workers have been gone for `GONE_AFTER_S`.
        """
        entry = self.known(model)
        if not self._is_served(entry.card.id):
            raise UnavailableError(
                ErrorCode.BACKEND_UNAVAILABLE,
                f"no worker serves the model {model!r} at the moment; try again later",
                param="model",
                retry_after_s=10.0,
            )
        return entry

    def known(self, model: str) -> CatalogueEntry:
        """Return a model that was ever served and not unloaded, whoever serves it now.

        Raises:
            NotFoundError: there is none of this name.
        """
        entry = self._entries.get(model)
        if entry is None:
            names = ", ".join(self._names()) or "none yet"
            raise NotFoundError(
                ErrorCode.MODEL_NOT_FOUND,
                f"the model {model[:80]!r} does not exist; served here: {names[:400]}",
                param="model",
            )
        return entry

    def resumes(self, model: str) -> frozenset[Resumable]:
        """Return what the model's workers can continue exactly; nothing where it is not known."""
        entry = self._entries.get(model)
        return entry.card.resumes if entry else frozenset()

    def card(self, model: str) -> ModelCard | None:
        """Return what is known of a base model."""
        entry = self._entries.get(model)
        return None if entry is None else entry.card

    def ready_workers(self, model: str) -> Sequence[WorkerRecord]:
        """Return the workers that claim requests of a base model."""
        entry = self._entries.get(model)
        return () if entry is None else [w for w in entry.workers if w.state == "ready"]

    def base_models(self) -> Sequence[str]:
        """Return every model that was ever served and not unloaded, whoever serves it now."""
        return sorted({entry.card.id for entry in self._entries.values()} - self._unloaded)

    def is_unloaded(self, model: str) -> bool:
        """Whether the model was unloaded and nobody has served it since."""
        return model in self._unloaded

    @property
    def workers(self) -> tuple[WorkerRecord, ...]:
        """Every worker with a lease, those of unloaded models included."""
        return self._workers

    @property
    def has_ready_worker(self) -> bool:
        """Whether any worker is ready, its lease renewed by progress."""
        return any(w.state == "ready" for e in self._entries.values() for w in e.workers)

    def _names(self) -> Sequence[str]:
        return sorted(n for n, entry in self._entries.items() if self._is_served(entry.card.id))

    def _with_adapters(self, models: dict[str, CatalogueEntry]) -> dict[str, CatalogueEntry]:
        """Return models and their adapters; of two with one name the model, or the first, stays."""
        entries = dict(models)
        refused: set[str] = set()
        for name in sorted(models):
            for adapter in self._usable_adapters(models[name]):
                if adapter.served_id in entries:
                    refused.add(adapter.served_id)
                    if adapter.served_id not in self._refused:
                        _log.error(
                            "adapter.name.taken",
                            name=adapter.served_id,
                            base=name,
                            owner=entries[adapter.served_id].card.id,
                        )
                else:
                    card, workers = models[name].card, models[name].workers
                    entries[adapter.served_id] = CatalogueEntry(card, workers, adapter)
        self._refused = frozenset(refused)
        return entries

    def _usable_adapters(self, model: CatalogueEntry) -> Iterator[AdapterCard]:
        """Yield what every ready worker of a model has loaded: any of them may get the request."""
        ready = [worker for worker in model.workers if worker.state == "ready"] or model.workers
        if not ready:  # all are gone, perhaps to come back: what they had
            known = [e.adapter for e in self._entries.values() if e.card.id == model.card.id]
            yield from (a for a in known if a is not None) if known else model.card.adapters
            return
        for adapter in ready[0].model.adapters:
            if all(adapter.name in {a.name for a in w.model.adapters} for w in ready):
                yield adapter

    def _is_served(self, model: str) -> bool:
        return time.monotonic() - self._last_served.get(model, -GONE_AFTER_S) < GONE_AFTER_S
