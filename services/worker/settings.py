"""Settings of a worker: environment variables with the prefix `GALEN_WORKER_`."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.telemetry import LogFormat, LogLevel

ENV_PREFIX = "GALEN_WORKER_"


class WorkerSettings(BaseSettings):
    """Read once, at the start; a bad value stops the start."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True)

    redis_url: SecretStr = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="redis://, rediss:// or unix:// address",
    )
    engine: Literal["fake", "transformers"] = Field(
        default="fake", description="What runs the model"
    )
    model_id: str = Field(
        default="fake", min_length=1, max_length=200, description="Name that clients ask for"
    )
    model_path: Path | None = Field(default=None, description="Checkpoint in Hugging Face layout")
    slots: int = Field(
        default=8,
        ge=1,
        le=65_536,
        description="Sequences that run at once; the worker claims no more",
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
        description="Starts that may fail in a row before the worker ends with code 1",
    )
    metrics_port: int | None = Field(
        default=None, ge=1, le=65_535, description="Prometheus metrics on 127.0.0.1; default: none"
    )
    image_cache_bytes: int = Field(
        default=256 << 20, ge=0, description="Decoded images kept in memory"
    )
    fake_step_ms: float = Field(
        default=5.0, gt=0, description="The fake engine's clock for delayed tokens, milliseconds"
    )
    log_format: LogFormat = "json"
    log_level: LogLevel = "info"


def child_environment(**overrides: str) -> dict[str, str]:
    """Return this process's environment with `overrides`, for a process of ours.

    Threads of an engine's library that wait must sleep: spinning ones (OpenMP's default) made the
    training of the demo checkpoint cost three times the CPU time beside other work.
    """
    return {"OMP_WAIT_POLICY": "passive", **os.environ, **overrides}
