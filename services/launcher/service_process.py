"""The command and the environment with which a service of ours is started."""

import sys
from collections.abc import Mapping
from pathlib import Path

from services.launcher.environment import service_environment


def service_process(
    service: str, settings: Mapping[str, str], python: Path | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of a service.

    Args:
        settings: by field.
        python: another interpreter that has our packages; None: this one.
    """
    prefix = f"GALEN_{service}_"
    environment = service_environment(
        {f"{prefix}{field}".upper(): value for field, value in settings.items()},
        is_other_python=python is not None,
    )
    return [str(python or sys.executable), "-m", f"services.{service}.main"], environment
