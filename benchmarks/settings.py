"""Where the benchmarks keep their files and which ports they use: GALEN_BENCH_* variables.

The only module here that reads the environment.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class BenchSettings(BaseSettings):
    """Settings of a benchmark run.

    Args:
        home: built programs, peers' virtual environments, logs and raw results.
        port_base: direct access to the mock engine; Galen and the peers take the next 200 ports.
    """

    model_config = SettingsConfigDict(env_prefix="GALEN_BENCH_", frozen=True)

    home: Path = Field(default=Path.home() / ".cache" / "galen-bench")
    port_base: int = Field(default=18000, ge=1024, le=65000)

    def folder(self, name: str) -> Path:
        """Return the folder `name` in `home`, made if it is missing."""
        path = self.home / name
        path.mkdir(parents=True, exist_ok=True)
        return path


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return our environment and `extra`, without stray GALEN_* variables of the caller's shell."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GALEN_")}
    return inherited | dict(extra)
