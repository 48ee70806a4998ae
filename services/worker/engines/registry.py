"""Which engine a worker's settings name; an engine's library is imported only when it is chosen."""

from importlib import import_module

from services.worker.engines.base import Engine, EngineStartError
from services.worker.engines.fake_engine import FakeEngine
from services.worker.settings import WorkerSettings


def build_engine(settings: WorkerSettings) -> Engine:
    """Return the engine, not started; raises EngineStartError where it is not installed."""
    if settings.engine == "fake":
        return FakeEngine(
            settings.model_id,
            context_length=settings.context_length or 32_768,
            step_ms=settings.fake_step_ms,
        )
    if settings.model_path is None:
        raise EngineStartError(
            "the transformers engine needs a checkpoint: set GALEN_WORKER_MODEL_PATH "
            "(or `galen worker --model-path DIR`)"
        )
    try:
        module = import_module("services.worker.engines.transformers_engine")
    except ImportError as error:
        raise EngineStartError(
            f"the transformers engine needs {error.name}: pip install 'galen[worker]'"
        ) from error
    return module.TransformersEngine(
        settings.model_path,
        settings.model_id,
        settings.slots,
        dtype=settings.dtype,
        device=settings.device,
        max_context=settings.context_length,
        num_threads=settings.num_threads,
    )
