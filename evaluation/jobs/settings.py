"""Settings of the job workers: environment variables with the prefix `GALEN_JOBS_`.

Where things are kept stands in `services/store/settings.py`.
"""

import socket
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.endpoint_client.places import host_of
from services.protocol.keys import why_no_redis_address
from services.settings_guard import ServiceSettings
from services.telemetry import LogFormat, LogLevel

ENV_PREFIX = "GALEN_JOBS_"


def _redis_address(url: SecretStr) -> SecretStr:
    if problem := why_no_redis_address(url.get_secret_value()):
        raise ValueError(problem)
    return url


def _http_address(url: str) -> str:
    if host_of(url) is None:
        raise ValueError("it must be an http or https address, such as http://127.0.0.1:8000/v1")
    return url.rstrip("/")


class JobSettings(ServiceSettings):
    """Read once, at the start; a bad value stops the start."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True)

    redis_url: Annotated[SecretStr, AfterValidator(_redis_address)] = Field(
        default=SecretStr("redis://127.0.0.1:6379/0"),
        description="redis://, rediss:// or unix:// address; the gateway's",
    )
    gateway_url: Annotated[str, AfterValidator(_http_address)] = Field(
        default="http://127.0.0.1:8000/v1", description="Where models are asked"
    )
    name: str = Field(
        default=socket.gethostname(),
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="Name of this worker; a number is added",
    )
    work_dir: Path | None = Field(
        default=None,
        description="Local folder of unfinished results (default: `work` in the store's)",
    )
    processes: int = Field(
        default=2, ge=1, le=64, description="Processes that work on shards, one shard each"
    )
    at_once: int = Field(
        default=32, ge=1, le=1024, description="Requests that a process has under way, at most"
    )
    shard_lines: int = Field(default=256, ge=1, le=10_000, description="Lines of a shard, at most")
    shard_time_s: float = Field(
        default=300.0,
        gt=0,
        le=600,
        description="A shard that takes longer is put back, to be gone on with",
    )
    request_timeout_s: float = Field(default=600.0, gt=0, description="Longest wait for one answer")
    lease_s: float = Field(
        default=10.0, ge=1, le=300, description="A process that is silent so long loses its shard"
    )
    look_s: float = Field(
        default=2.0, gt=0, le=60, description="How often is looked for work that nobody has"
    )
    stuck_s: float = Field(
        default=30.0,
        ge=5,
        description="A worker that takes no task for so long, while Redis answers, is started anew",
    )
    log_format: LogFormat = "json"
    log_level: LogLevel = "info"

    @property
    def longest_shard_s(self) -> float:
        """A process that has a shard for so long hangs: its last answers had their time."""
        return self.shard_time_s + 2 * self.request_timeout_s
