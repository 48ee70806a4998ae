"""The command and the environment with which a service of ours is started."""

import sys
from collections.abc import Mapping
from pathlib import Path

from services.launcher.environment import service_environment
from services.store.settings import ENV_PREFIX

MODULES = {
    "gateway": "services.gateway.main",
    "worker": "services.worker.main",
    "jobs": "evaluation.jobs.main",
    "ui": "services.ui.main",
}


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
    return [str(python or sys.executable), "-m", MODULES[service]], environment


def store_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the store's settings, by field, which several services read."""
    return {f"{ENV_PREFIX}{field}".upper(): value for field, value in settings.items()}
