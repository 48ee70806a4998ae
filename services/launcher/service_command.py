"""`galen gateway`, `worker`, `jobs`, `ui`: options made from settings, and the process itself.

Each field of a service's settings is an option. What is chosen goes to the service as environment
variables, where all its settings come from, and this process becomes the service.
"""

import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, cast, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from evaluation.jobs.settings import JobSettings
from services.gateway.settings import GatewaySettings
from services.launcher.config_file import read_config
from services.launcher.page_process import check_page_packages
from services.launcher.service_process import service_process
from services.launcher.settings_check import check_settings, warn_of_unknown_prefixes
from services.store.settings import StoreSettings
from services.ui.settings import UiSettings
from services.worker.settings import WorkerSettings

_GATEWAY_HELP = """Run a gateway alone: HTTP on one side, Redis on the other.

Each option is also an environment variable: --redis-url is GALEN_GATEWAY_REDIS_URL.

Example:

galen gateway --port 8000 --redis-url redis://127.0.0.1:6379/0
"""
_WORKER_HELP = """Run a worker alone: it takes requests from Redis and runs the model.

Each option is also an environment variable: --model-path is GALEN_WORKER_MODEL_PATH.

Example:

galen worker --engine transformers --model-path ./llava-med --model-id llava-med

galen worker --config worker.toml --slots 16
"""
_JOBS_HELP = """Run a job worker alone: it does batches and evaluations through a gateway.

Each option is also an environment variable: --gateway-url is GALEN_JOBS_GATEWAY_URL. Where files
and results are kept is said by GALEN_STORE_DIR, GALEN_STORE_DATABASE_URL and GALEN_STORE_FILES_URL,
which the gateway needs, too.

Example:

galen jobs --gateway-url http://127.0.0.1:8000/v1 --redis-url redis://127.0.0.1:6379/0
"""
_UI_HELP = """Run the page alone: chat, comparisons, evaluations and status, over a gateway.

Each option is also an environment variable: --gateway-url is GALEN_UI_GATEWAY_URL.

Example:

galen ui --gateway-url http://127.0.0.1:8000/v1

galen ui --host 0.0.0.0 --secure-cookie true --allowed-hosts galen.example.org
"""


_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE.toml",
            help="Settings from a file; a variable or an option wins over it.",
            show_default=False,
        ),
    ],
)


def run_gateway(arguments: Sequence[str]) -> None:
    """Become a gateway."""
    _run("gateway", GatewaySettings, _GATEWAY_HELP, arguments)


def run_worker(arguments: Sequence[str]) -> None:
    """Become a worker."""
    _run("worker", WorkerSettings, _WORKER_HELP, arguments)


def run_jobs(arguments: Sequence[str]) -> None:
    """Become a job worker."""
    _run("jobs", JobSettings, _JOBS_HELP, arguments)


def run_ui(arguments: Sequence[str]) -> None:
    """Become the page."""
    check_page_packages()
    _run("ui", UiSettings, _UI_HELP, arguments)


def _run(
    service: str, settings: type[BaseSettings], help_text: str, arguments: Sequence[str]
) -> None:
    def become_the_service(config: Path | None, **options: str | None) -> None:
        chosen = {name: value for name, value in options.items() if value is not None}
        if config is not None:
            chosen = read_config(config, settings) | chosen
        check_settings(settings, chosen)
        check_settings(StoreSettings, {})
        warn_of_unknown_prefixes()
        command, environment = service_process(service, chosen)
        sys.stdout.flush()
        os.execve(sys.executable, command, environment)  # noqa: S606 - our own module

    parameters = [_CONFIG, *(_option(name, field) for name, field in settings.model_fields.items())]
    # Typer reads the options from here.
    become_the_service.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    become_the_service.__annotations__ = {each.name: each.annotation for each in parameters}
    command = typer.Typer(
        add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}
    )
    command.command(help=help_text)(become_the_service)
    raise typer.Exit(command(arguments, prog_name=f"galen {service}", standalone_mode=False) or 0)


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    description = field.description or name.replace("_", " ").capitalize()
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        metavar=_metavar(field),
        help=f"{description}{_default(field)}",
        show_default=False,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[str | None, option],
    )


def _metavar(field: FieldInfo) -> str:
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not type(None)]
    names = {"int": "N", "float": "NUMBER", "Path": "DIR"}
    return names.get(getattr(kinds[0], "__name__", ""), "TEXT")


def _default(field: FieldInfo) -> str:
    default = cast("object", field.default)
    if default is None or default is PydanticUndefined:
        return ""
    shown = getattr(default, "get_secret_value", lambda: default)()
    return f" (default: {shown})"
