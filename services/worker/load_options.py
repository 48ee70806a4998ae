"""How a checkpoint is to be loaded, and which of these ways exclude each other or an engine.

No torch: the worker's parent asks before it starts an engine process, and the engine asks again.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from services.worker.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The worker's settings of the same names.

    Args:
        dtype: "auto": what the checkpoint says.
        device: "auto" (an accelerator if there is one) or a name of torch's.
        max_context: lowers the checkpoint's own context length, tokens.
        tensor_parallel_size: ranks that share each layer; each loads with the same options.
        memory_fraction: of each card that may be used; None: all that is free.
    """

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    max_context: int | None = None
    tensor_parallel_size: int = 1
    quantization: Literal["none", "bnb-int8", "bnb-nf4", "bnb-fp4"] = "none"
    device_map: Literal["none", "auto"] = "none"
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = "auto"
    memory_fraction: float | None = None
    feature_cache_bytes: int = 256 << 20


def load_options(settings: WorkerSettings) -> LoadOptions:
    """Return what a worker's settings say."""
    return LoadOptions(
        dtype=settings.dtype,
        device=settings.device,
        max_context=settings.context_length,
        tensor_parallel_size=settings.tensor_parallel_size,
        quantization=settings.quantization,
        device_map=settings.device_map,
        attention=settings.attention,
        memory_fraction=settings.gpu_memory_fraction,
        feature_cache_bytes=settings.feature_cache_bytes,
    )


def why_impossible(options: LoadOptions) -> str | None:
    """Return one line on what does not go together or is not installed; None where all is well."""
    ranks = options.tensor_parallel_size
    if ranks > 1 and options.quantization != "none":
        return (
            f"--quantization {options.quantization} does not go with --tensor-parallel-size "
            f"{ranks}: bitsandbytes' weights cannot be sharded; on several cards use "
            "--device-map auto with --tensor-parallel-size 1"
        )
    if ranks > 1 and options.device_map != "none":
        return (
            f"--device-map {options.device_map} does not go with --tensor-parallel-size {ranks}: "
            "either whole layers on each card, or a part of each layer; choose one of them"
        )
    if ranks > 1 and ":" in options.device:
        return (
            f"--device {options.device} does not go with --tensor-parallel-size {ranks}: rank r "
            "takes the r-th card it sees; choose cards with CUDA_VISIBLE_DEVICES"
        )
    if options.quantization != "none" and find_spec("bitsandbytes") is None:
        return (
            f"--quantization {options.quantization} needs the package bitsandbytes: "
            "pip install 'galen[worker]' (Linux), or choose --quantization none"
        )
    if options.attention == "flash_attention_2" and find_spec("flash_attn") is None:
        return (
            "--attention flash_attention_2 needs the package flash-attn, which is not installed: "
            "pip install flash-attn (it needs nvcc and a CUDA build of torch), or choose "
            "--attention sdpa, which has flash kernels of its own"
        )
    return None


def why_not_on_vllm(options: LoadOptions) -> str | None:
    """Return one line on what vLLM cannot do of this; None where it can all."""
    if options.quantization != "none":
        return (
            f"--quantization {options.quantization}: vLLM 0.32 has no bitsandbytes; "
            "use --engine transformers, or leave the weights as they are"
        )
    if options.device_map != "none":
        return (
            "--device-map: vLLM has none; use --engine transformers, or a "
            "--tensor-parallel-size that divides the heads"
        )
    if options.attention != "auto":
        return f"--attention {options.attention}: vLLM chooses its own kernel; leave it at auto"
    return None
