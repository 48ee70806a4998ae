"""What a worker can know without loading anything: refused within a moment, in one line. No torch.

Run by the worker's parent before the first engine process is started. What does *not* live here:
what only the loaded library can tell (`engines/`).
"""

from pathlib import Path

import structlog

from modeling import planner
from modeling.cards import Card, CardsError, cards_present, main_memory
from modeling.checkpoint_files import (
    CheckpointError,
    CheckpointFiles,
    open_checkpoint,
    refuse_without_processor,
)
from modeling.finite_weights import refuse_non_finite
from modeling.memory_forecast import Layout
from modeling.model_shape import UnknownModelError, shape_of_files, why_incomplete
from modeling.plan_options import ADAPTERS_PER_BATCH
from modeling.plan_words import why_too_long
from modeling.sharding import why_not_divisible
from modeling.tensor_shapes import own_context
from modeling.vllm_limits import why_model_not_on_vllm
from services.worker.load_options import load_options, why_impossible, why_not_on_vllm
from services.worker.settings import WorkerSettings, child_environment

_log = structlog.get_logger()


class PreflightError(Exception):
    """The worker cannot start: one line, with what was wrong and what to do."""


def preflight(settings: WorkerSettings) -> None:
    """Check settings and checkpoint against each other.

    Raises:
        PreflightError: the engine would refuse them, or could not run them.
    """
    if settings.adapters_dir is not None and not _is_directory(settings.adapters_dir):
        raise PreflightError(f"--adapters-dir {settings.adapters_dir} is no directory; make it")
    if settings.engine == "fake":
        if settings.model_path is not None:
            raise PreflightError(
                f"--model-path {settings.model_path} needs an engine that loads it: "
                "--engine transformers or --engine vllm (without one, numbered tokens answer)"
            )
        return
    if settings.engine == "transformers" and (problem := why_impossible(load_options(settings))):
        raise PreflightError(problem)
    if settings.engine == "vllm" and (problem := why_not_on_vllm(load_options(settings))):
        raise PreflightError(problem)
    if settings.engine == "transformers" and settings.adapters_dir is not None:
        _refuse_sharded_adapters(settings)
    files = _open(settings)
    _check_context(settings, files)
    ranks = settings.tensor_parallel_size
    if ranks > 1 and (problem := why_not_divisible(files.config, ranks)):
        raise PreflightError(problem)
    if settings.check_memory:
        _check_memory(settings, files)
    _check_weights(files)  # the only check that reads more than headers


def _refuse_sharded_adapters(settings: WorkerSettings) -> None:
    if settings.tensor_parallel_size > 1:
        raise PreflightError(
            f"--adapters-dir does not go with --tensor-parallel-size "
            f"{settings.tensor_parallel_size} on the transformers engine: take --engine vllm, or "
            "--device-map auto with --tensor-parallel-size 1"
        )


def _is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


def _open(settings: WorkerSettings) -> CheckpointFiles:
    if settings.model_path is None:
        raise PreflightError(
            f"the {settings.engine} engine needs a checkpoint: set GALEN_WORKER_MODEL_PATH "
            "(or `galen worker --model-path DIR`)"
        )
    try:
        files = open_checkpoint(settings.model_path)
        refuse_without_processor(files.path)
        if settings.engine == "vllm" and (problem := why_model_not_on_vllm(files.config)):
            raise PreflightError(f"{files.path.name}: {problem}")
        if problem := why_incomplete(files):
            raise PreflightError(problem)
    except CheckpointError as error:
        raise PreflightError(str(error)) from error
    return files


def _check_context(settings: WorkerSettings, files: CheckpointFiles) -> None:
    """Refuse more tokens than the model was made for, on every engine."""
    context, own = settings.context_length, own_context(files.config)
    if context is None or own is None:
        return
    if problem := why_too_long("--context-length (GALEN_WORKER_CONTEXT_LENGTH)", context, own):
        raise PreflightError(f"{files.path.resolve().name}: {problem}")


def _check_weights(files: CheckpointFiles) -> None:
    try:
        refuse_non_finite(files)
    except CheckpointError as error:
        raise PreflightError(str(error)) from error


def _check_memory(settings: WorkerSettings, files: CheckpointFiles) -> None:
    """Refuse what the planner says does not fit; what it cannot know is tried."""
    try:
        shape = shape_of_files(files)
    except UnknownModelError as error:
        _log.warning("worker.memory.unknown", cause=str(error))
        return
    is_vllm = settings.engine == "vllm"
    visible = child_environment().get("CUDA_VISIBLE_DEVICES")
    try:
        cards = [] if settings.device == "cpu" else _cards_of(settings, cards_present(visible))
    except CardsError as error:  # parts of cards (MIG), whose memory is not known here
        _log.warning("worker.memory.unknown", cause=str(error))
        return
    dtype = shape.dtype or "float32" if settings.dtype == "auto" else settings.dtype
    if is_vllm and cards and settings.dtype == "auto" and dtype == "float32":
        dtype = "bfloat16"  # vLLM's own choice (ModelConfig, _resolve_auto_dtype)
    has_adapters = settings.adapters_dir is not None
    layout = Layout(
        engine="vllm" if is_vllm else "transformers",
        tensor_parallel_size=settings.tensor_parallel_size,
        quantization=settings.quantization,
        device_map=settings.device_map,
        num_cards=len(cards) if cards and settings.device_map == "auto" else 1,
        dtype=dtype,
        is_cpu=not cards,
        adapter_ranks=ADAPTERS_PER_BATCH * settings.max_lora_rank if has_adapters else 0,
        kv_cache_bytes=settings.kv_cache_gib << 30 if is_vllm and not cards else 0,
    )
    context = settings.context_length or shape.max_context
    try:
        planner.check(
            shape, layout, cards or [main_memory()], context, settings.slots,
            memory_fraction=settings.gpu_memory_fraction,
        )  # fmt: skip
    except planner.PlannerError as error:
        raise PreflightError(f"{error} (--check-memory false tries it all the same)") from error


def _cards_of(settings: WorkerSettings, cards: list[Card]) -> list[Card]:
    """Return the cards that this worker will use, or chooses from."""
    if settings.device_map == "auto":
        return cards
    _, _, index = settings.device.partition(":")
    first = int(index) if index.isdecimal() else 0
    return cards[first : first + settings.tensor_parallel_size]
