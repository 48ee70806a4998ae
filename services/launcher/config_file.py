"""Settings of a service from a TOML file: keys are the fields of its settings.

    redis_url = "redis://10.0.0.5:6379/0"
    engine = "vllm"
    model_path = "llava-med"    # relative to the file's folder

What is set as an environment variable stays as it is: variables win over the file.
"""

import difflib
import tomllib
from pathlib import Path
from typing import get_args

import typer
from pydantic_settings import BaseSettings

from services.settings_guard import set_variables


def read_config(file: Path, settings: type[BaseSettings]) -> dict[str, str]:
    """Return the file's values by field, without those that a variable gives.

    Raises:
        typer.BadParameter: it is no TOML, has an unknown key, or a value that is no plain one.
    """
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{file} cannot be read as TOML: {error}") from error
    prefix = settings.model_config.get("env_prefix", "")
    values: dict[str, str] = {}
    for key, value in found.items():
        field = settings.model_fields.get(key)
        if field is None:
            near = difflib.get_close_matches(key, list(settings.model_fields), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise typer.BadParameter(f"{file}: unknown setting {key}{hint}")
        if not isinstance(value, str | int | float | bool):
            raise typer.BadParameter(f"{file}: {key} must be text, a number or a boolean")
        if set_variables([f"{prefix}{key}".upper()]):
            continue
        is_path = Path in (field.annotation, *get_args(field.annotation))
        values[key] = str(
            file.resolve().parent / Path(str(value)).expanduser() if is_path else value
        )
    return values
