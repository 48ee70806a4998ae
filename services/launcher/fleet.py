"""The models that one launcher runs: their workers started, watched, told to end.

Lives here: which model has which workers, and what the end of a worker means for it. What does
*not* live here: processes (`children.py`), which engine on which cards (`layouts.py`), and who
orders it (`up.py`, `host_agent.py`).
"""

import ast
import asyncio
import contextlib
import json
import re
import signal
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from services.launcher.children import Family, KeptChild
from services.launcher.layouts import Layout, Machine, choose_layout, host_cards, visible_devices
from services.launcher.placement import candidates_beside
from services.launcher.service_process import service_process
from services.launcher.terminal import CommandError, Terminal
from services.protocol.admin import Card, HostedModel, LoadModel, ModelState
from services.protocol.messages import WorkerRecord

_LATE_S = 3.0
"""After the time of a drain: then workers that did not hear of it get a signal."""
_TERM_S = 8.0
_REFUSED = "engine.start.refused"
_CAUSE = re.compile(r"""\bcause=('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
"""A value in structlog's console format, where it is not a bare word."""


@dataclass(slots=True, eq=False)
class _Model:
    """One model.

    Args:
        is_first: it was there from the start, so that its death is everything's.
        cards_of: of each worker that is there.
    """

    wish: LoadModel
    layout: Layout
    is_first: bool
    state: ModelState = "starting"
    problem: str = ""
    workers: dict[str, KeptChild] = field(default_factory=dict[str, KeptChild])
    cards_of: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    num_drained: int = 0
    is_empty: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def cards(self) -> tuple[int, ...]:
        return tuple(sorted({card for cards in self.cards_of.values() for card in cards}))

    def layout_now(self) -> str:
        """Return the layout in words, and what has become of it."""
        if not self.num_drained:
            return self.layout.reason
        planned = len(self.layout.cards)
        return f"{self.layout.reason}; {self.num_drained} of {planned} workers drained"


class Fleet:
    """All models of a launcher.

    Args:
        shared: settings of every worker, by field.
        defaults: fields of `LoadModel` for models that are loaded later and do not say.
    """

    def __init__(
        self,
        family: Family,
        terminal: Terminal,
        machine: Machine,
        shared: Mapping[str, str],
        defaults: Mapping[str, str | int | None] | None = None,
    ) -> None:
        self._family = family
        self._terminal = terminal
        self._machine = machine
        self._shared = shared
        self._defaults = defaults or {}
        self._models: dict[str, _Model] = {}
        self._num_started = 0
        self._host = socket.gethostname()

    def plan(self, wish: LoadModel) -> Layout:
        """Check a model and choose its layout; raises CommandError where it cannot be loaded."""
        present = self._models.get(wish.model_id)
        if present is not None and present.state != "failed":
            raise CommandError(f"the model {wish.model_id!r} is {present.state} here already")
        machine = replace(self._machine, cards=self._cards_with_room())
        unsaid = {n: v for n, v in self._defaults.items() if getattr(wish, n) is None}
        wish = msgspec.structs.replace(wish, **unsaid)
        return choose_layout(wish, machine, candidates_beside(machine.cards, self._taken_cards()))

    async def start(
        self, wish: LoadModel, layout: Layout, *, is_first: bool, names: Iterable[str] = ()
    ) -> None:
        """Start the workers of a model.

        Args:
            names: of its workers; by default they are numbered.

        Raises:
            CommandError: the system starts no more processes.
        """
        model = _Model(wish, layout, is_first)
        self._models[wish.model_id] = model
        self._terminal.progress(f"{wish.model_id}: {layout.reason}")
        given = iter(names)
        for cards in layout.cards:
            self._num_started += 1
            name = next(given, f"worker {self._num_started}")
            settings = {**self._shared, **layout.settings, "name": name.replace(" ", "-")}
            command, environment = service_process("worker", settings, layout.python)
            if cards:
                environment["CUDA_VISIBLE_DEVICES"] = visible_devices(cards)

            def on_end(death: CommandError | None, name: str = name) -> None:
                self._on_end(model, name, death)

            try:
                kept = await self._family.start_kept(name, command, environment, on_end)
            except OSError as error:
                failure = CommandError(f"{name} cannot be started ({error})")
                self._fail(model, failure)
                raise failure from error
            model.workers[name] = kept
            model.cards_of[name] = cards

    def establish_all(self) -> None:
        """All models that were started have worked: from now on a dead worker is replaced."""
        for model in self._models.values():
            self._establish(model, model.workers.values())

    def establish(self, records: Iterable[WorkerRecord]) -> None:
        """Learn from the worker directory which workers have worked."""
        ready = {
            (record.model.id, record.worker_id.rpartition("-")[0])
            for record in records
            if record.host == self._host and record.state != "starting"
        }
        for model in self._models.values():
            found = [
                kept
                for name, kept in model.workers.items()
                if (model.wish.model_id, name.replace(" ", "-")) in ready
            ]
            self._establish(model, found)

    def _establish(self, model: _Model, workers: Iterable[KeptChild]) -> None:
        for kept in workers:
            kept.is_established = True
            if model.state == "starting":
                model.state = "serving"

    async def unload(self, model_id: str, timeout_s: float) -> None:
        """Wait for the end of a model's workers, which were told to drain, and see to it.

        Args:
            timeout_s: what they were told.
        """
        model = self._models[model_id]
        model.state = "unloading"
        for kept in model.workers.values():
            kept.leave()
            if not kept.is_established:  # it loads, and hears no orders yet
                kept.child.signal(signal.SIGTERM)
        await _wait_until_empty(model, timeout_s + _LATE_S)
        for kept in model.workers.values():
            kept.child.signal(signal.SIGTERM)
        await _wait_until_empty(model, _TERM_S)
        for kept in model.workers.values():
            kept.child.kill_group()
        await _wait_until_empty(model, _TERM_S)
        if self._models.get(model_id) is model:
            del self._models[model_id]
        self._terminal.progress(f"{model_id} was unloaded")

    def report(self, line: str) -> None:
        """Say what happened on the launcher's terminal."""
        self._terminal.progress(line)

    def has(self, model_id: str) -> bool:
        """Whether this launcher runs the model."""
        return model_id in self._models

    def models(self) -> tuple[HostedModel, ...]:
        """Return what there is, in the order in which it was loaded."""
        return tuple(
            HostedModel(
                id=model_id,
                engine=model.layout.engine,
                layout=model.layout_now(),
                state=model.state,
                workers=len(model.workers),
                cards=model.cards,
                problem=model.problem,
            )
            for model_id, model in self._models.items()
        )

    def _cards_with_room(self) -> tuple[Card, ...]:
        """Return the cards with what is free and promised to no worker: caches grow later."""
        promised: Counter[int] = Counter()
        for model in self._models.values():
            for worker_cards in model.cards_of.values():
                promised.update(dict.fromkeys(worker_cards, model.layout.card_bytes))
        return tuple(
            msgspec.structs.replace(
                card,
                free_bytes=max(0, min(card.free_bytes, card.total_bytes - promised[card.index])),
            )
            for card in host_cards()
        )

    def _taken_cards(self) -> frozenset[int]:
        return frozenset(card for model in self._models.values() for card in model.cards)

    def _on_end(self, model: _Model, name: str, death: CommandError | None) -> None:
        """A worker is gone for good: by an order, or because it cannot work."""
        kept = model.workers.pop(name)
        del model.cards_of[name]
        if not model.workers:
            model.is_empty.set()
        if death is not None:
            if model.is_first:
                self._family.give_up(death)
                return
            cause = _cause_in(kept.child.last_lines)
            self._fail(model, CommandError(f"{death.message}: {cause}") if cause else death)
        elif model.is_first and model.state == "starting":
            self._family.give_up(CommandError(f"{name} was told to end before it was ready"))
        elif model.state not in ("unloading", "failed"):
            model.num_drained += 1
            self._terminal.progress(f"{name} was drained; it is not started again")
            if not model.workers:
                self._models.pop(model.wish.model_id, None)
                self._terminal.progress(f"no worker of {model.wish.model_id} is left here")

    def _fail(self, model: _Model, death: CommandError) -> None:
        """Give up a model that was loaded later; the others go on."""
        if model.state in ("failed", "unloading"):
            return
        model.state = "failed"
        model.problem = death.message
        self._terminal.progress(f"{model.wish.model_id} failed: {death.message}; the others go on")
        for kept in model.workers.values():
            kept.leave()
            kept.child.signal(signal.SIGTERM)


def _cause_in(lines: Iterable[str]) -> str:
    """Return why an engine did not start, from its worker's log in either format; "" if unsaid."""
    for line in lines:
        if _REFUSED not in line:
            continue
        with contextlib.suppress(ValueError, SyntaxError, AttributeError):
            if line.startswith("{"):
                return str(json.loads(line).get("cause", ""))
            if found := _CAUSE.search(line):
                return str(ast.literal_eval(found[1]))
    return ""


async def _wait_until_empty(model: _Model, limit_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            if model.workers:
                await model.is_empty.wait()
