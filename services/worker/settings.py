"""Settings of a worker: environment variables with the prefix `GALEN_WORKER_`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.protocol.keys import why_no_model_name, why_no_redis_address
from services.telemetry import LogFormat, LogLevel

ENV_PREFIX = "GALEN_WORKER_"


def _model_name(name: str) -> str:
    if problem := why_no_model_name(name):
        raise ValueError(problem)
    return name


def _redis_address(url: SecretStr) -> SecretStr:
    if problem := why_no_redis_address(url.get_secret_value()):
        raise ValueError(problem)
    return url


class WorkerSettings(BaseSettings):
    """Read once, at the start; a bad value stops the start."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True)

    redis_url: Annotated[SecretStr, AfterValidator(_redis_address)] = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="redis://, rediss:// or unix:// address",
    )
    engine: Literal["fake", "transformers", "vllm"] = Field(
        default="fake", description="What runs the model"
    )
    model_id: Annotated[str, AfterValidator(_model_name)] = Field(
        default="fake", description="Name that clients ask for"
    )
    model_path: Path | None = Field(default=None, description="Checkpoint in Hugging Face layout")
    slots: int = Field(
        default=8,
        ge=1,
        le=65_536,
        description="Sequences that run at once; the worker claims no more",
    )
    interactive_slots: int | None = Field(
        default=None,
        ge=0,
        description="Slots that requests of the batch lane never take, less than --slots; default: "
        "as many as interactive ones used lately, a sixteenth to a half of the slots",
    )
    name: str = Field(
        default="worker",
        pattern=r"^[A-Za-z0-9_.-]{1,40}$",
        description="Begins this worker's id in logs",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Weights' type"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, …")
    context_length: int | None = Field(
        default=None,
        ge=16,
        description="Most tokens of prompt and answer; default: what the model says",
    )
    num_threads: int | None = Field(default=None, ge=1, description="CPU threads of the engine")
    tensor_parallel_size: int = Field(
        default=1, ge=1, le=64, description="Cards (or CPU processes) that share each layer"
    )
    quantization: Literal["none", "bnb-int8", "bnb-nf4", "bnb-fp4"] = Field(
        default="none", description="Of the language model's weights; transformers engine only"
    )
    device_map: Literal["none", "auto"] = Field(
        default="none",
        description="auto: whole layers on each card, for numbers of cards that do not divide the "
        "heads; transformers engine only",
    )
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = Field(
        default="auto", description="Attention kernel; transformers engine only"
    )
    max_images: int = Field(default=16, ge=1, le=256, description="Most images of one request")
    adapters_dir: Path | None = Field(
        default=None,
        description="Folder of LoRA adapters, one folder each; watched while the worker runs",
    )
    max_lora_rank: int = Field(default=64, ge=1, le=512, description="Largest rank of an adapter")
    gpu_memory_fraction: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Of each card, for weights and KV cache together; default: 0.9 with vLLM, "
        "what is free with transformers",
    )
    kv_cache_gib: int = Field(
        default=4, ge=1, description="KV cache of the vLLM engine on a CPU, GiB per process"
    )
    enforce_eager: bool = Field(
        default=False, description="vLLM engine: no graphs and no compilation; starts faster"
    )
    check_memory: bool = Field(
        default=True, description="Refuse to load what the planner says does not fit"
    )
    step_timeout_s: float = Field(
        default=8.0,
        gt=0,
        description="A decoding step that takes longer is a hang: the engine is killed",
    )
    prefill_timeout_s: float = Field(
        default=60.0,
        gt=0,
        description="The same for a step that admits requests: long prompts, many images, one core",
    )
    beat_timeout_s: float = Field(
        default=8.0,
        gt=0,
        description="An engine process whose event loop is silent longer is killed",
    )
    start_timeout_s: float = Field(default=900.0, gt=0, description="Longest loading of the model")
    drain_timeout_s: float = Field(
        default=30.0,
        ge=0,
        description="After SIGTERM: time for running requests before they are handed on",
    )
    most_failed_starts: int = Field(
        default=3,
        ge=1,
        description="Starts that fail, or engines that die idle within a minute of theirs: so many "
        "in a row end the worker with code 1",
    )
    metrics_port: int | None = Field(
        default=None, ge=1, le=65_535, description="Port of Prometheus metrics; default: none"
    )
    metrics_host: str = Field(
        default="127.0.0.1", description="Address to serve metrics on; they ask for no key"
    )
    image_cache_bytes: int = Field(
        default=256 << 20, ge=0, description="Decoded images kept in memory"
    )
    feature_cache_bytes: int = Field(
        default=256 << 20,
        ge=0,
        description="Image features kept in main memory for further questions on their images; "
        "transformers engine, LLaVA, one rank",
    )
    fake_script: Path | None = Field(
        default=None, description="JSON lines of what the fake engine answers to what"
    )
    fake_step_ms: float = Field(
        default=5.0, gt=0, description="The fake engine's clock for delayed tokens, milliseconds"
    )
    log_format: LogFormat = "json"
    log_level: LogLevel = "info"

    @field_validator("interactive_slots")
    @classmethod
    def _leave_batch_a_slot(cls, reserved: int | None, given: ValidationInfo) -> int | None:
        slots: int | None = given.data.get("slots")  # missing where it is wrong itself
        if reserved is not None and slots is not None and reserved >= slots:
            raise ValueError(f"{reserved} of {slots} slots leave none for the batch lane")
        return reserved


def child_environment(**overrides: str) -> dict[str, str]:
    """Return this process's environment with `overrides`, for a process of ours.

    Threads of an engine's library that wait must sleep: spinning ones (OpenMP's default) made a
    small training cost three times the CPU time beside other work. CUDA counts
    cards as NVML does, by their place on the bus; its default is the fastest first.
    """
    defaults = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "OMP_WAIT_POLICY": "passive"}
    return {**defaults, **os.environ, **overrides}


def set_vllm_environment(settings: WorkerSettings, *, on_cpu: bool) -> None:
    """Set what vLLM reads from the environment; to be called before it is imported.

    Its processes inherit it. Nothing is sent to its makers, nothing is fetched, its logs hold
    warnings only, and the model runner is the one whose interface our sampling is written for.
    """
    values = {
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    if on_cpu:
        # Compiling costs 14 s at the first request with log-probabilities, and needs a compiler.
        values["TORCHDYNAMO_DISABLE"] = "1"
        values["VLLM_CPU_KVCACHE_SPACE"] = str(settings.kv_cache_gib)
        cores = sorted(os.sched_getaffinity(0))
        if settings.tensor_parallel_size > 1:
            values["VLLM_CPU_OMP_THREADS_BIND"] = thread_bindings(
                cores, settings.tensor_parallel_size, settings.num_threads
            )
        else:  # the rank lives in the engine core (`vllm_executor.py`)
            values["OMP_NUM_THREADS"] = str(settings.num_threads or threads_of_one_rank(cores))
    os.environ.update(values)


def threads_of_one_rank(cores: Sequence[int]) -> int:
    """Return OpenMP's threads for vLLM's only rank on a CPU: a core is left for all the rest."""
    return max(1, len(cores) - 1)


def thread_bindings(cores: Sequence[int], ranks: int, threads: int | None) -> str:
    """Return vLLM's list of CPU cores per rank, such as `0,1|2,3`: equal shares, none twice.

    Args:
        cores: those this process may use.
        threads: most per rank; None: all of its share.

    Raises:
        ValueError: there are fewer cores than ranks.
    """
    share = len(cores) // ranks
    if share == 0:
        raise ValueError(f"{ranks} ranks need {ranks} CPU cores; this process may use {len(cores)}")
    used = share if threads is None else min(share, threads)
    return "|".join(
        ",".join(str(core) for core in cores[rank * share : rank * share + used])
        for rank in range(ranks)
    )


def set_rank_environment(rank: int, ranks: int) -> None:
    """Set what transformers reads to find its place among the ranks of a tensor-parallel model."""
    os.environ.update(
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "GLOO_SOCKET_IFNAME": "lo",  # all ranks are on this machine
            "NCCL_SOCKET_IFNAME": "lo",
        }
    )
