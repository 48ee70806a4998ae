"""What a service would refuse at its start is told before anything is started, in one line."""

from collections.abc import Mapping

import typer
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from evaluation.jobs.settings import JobSettings
from services.gateway.settings import GatewaySettings
from services.settings_guard import unknown_prefixes, unknown_variables
from services.store.settings import StoreSettings
from services.ui.settings import UiSettings
from services.worker.settings import WorkerSettings

SERVICES: tuple[type[BaseSettings], ...] = (
    GatewaySettings, WorkerSettings, JobSettings, StoreSettings, UiSettings,
)  # fmt: skip
_OUR_OWN = "Value error, "
"""How pydantic begins what a check of ours says."""


def check_settings(settings: type[BaseSettings], chosen: Mapping[str, str]) -> None:
    """Refuse unknown variables and bad values.

    Args:
        chosen: what options said, by field; everything else comes from the environment.

    Raises:
        typer.BadParameter: names the option, or the variable, that is to blame.
    """
    unknown = unknown_variables(settings)
    if unknown:
        raise typer.BadParameter("; ".join(unknown))
    prefix = settings.model_config.get("env_prefix", "")
    try:
        settings(**chosen)  # pyright: ignore[reportArgumentType] - it is here to convert them
    except ValidationError as error:
        problems: list[str] = []
        for each in error.errors(include_input=False, include_url=False):
            field = str(each["loc"][0])
            option = f"--{field.replace('_', '-')}"
            name = option if field in chosen else f"{prefix}{field}".upper()
            problems.append(f"{name}: {each['msg'].removeprefix(_OUR_OWN)}")
        raise typer.BadParameter("; ".join(problems)) from error


def warn_of_unknown_prefixes() -> None:
    """Write a line for each GALEN_* variable that no service reads."""
    for line in unknown_prefixes(SERVICES):
        typer.echo(f"galen: warning: {line}", err=True)
