"""Settings come from variables and from files of secrets, and a misspelt name is told.

pydantic-settings reads the variables that it knows and passes over all others, so that
`GALEN_WORKER_SLTOS=8` would silently mean the default. An unknown name with a service's prefix
stops the start; one with a prefix that nobody has may belong to something else, and is a warning.

A password in a variable is seen by whoever may look at a container or a process. So each setting
may stand in a file of its variable's name, in lower case, in `GALEN_SECRETS_DIR` (`/run/secrets`,
where Docker mounts them; the Helm chart elsewhere), as `galen_gateway_redis_url`. A variable wins.
"""

import difflib
import os  # the only module beside the settings that looks at the environment
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsError,
)

S = TypeVar("S", bound=BaseSettings)

_OURS = "GALEN_"
_SECRETS_DIR = "GALEN_SECRETS_DIR"
_MOUNTED = "/run/secrets"
_NO_SERVICE = ("GALEN_BENCH_",)
"""Prefixes of programs beside the services."""
_OF_COMMANDS = ("GALEN_ADMIN_KEY", "GALEN_API_KEY", "GALEN_UP_WORKER_PYTHON", _SECRETS_DIR)
"""Variables of `galen` itself."""


class ServiceSettings(BaseSettings):
    """Settings of a service: what was passed, then variables, then files of secrets."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class's names
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return where values come from, the first to win."""
        folder = secrets_dir()
        files = () if folder is None else (SecretsSettingsSource(settings_cls, folder),)
        return (init_settings, env_settings, *files)


def secrets_dir() -> Path | None:
    """Return the folder of secrets, None where there is none."""
    folder = Path(os.environ.get(_SECRETS_DIR, _MOUNTED))  # noqa: TID251 - as `_given`
    return folder if folder.is_dir() else None


def settings_or_exit(settings: type[S], service: str) -> S:
    """Read a service's settings; a bad value or a misspelt name ends the process with its line."""
    unknown = unknown_variables(settings)
    if unknown:
        sys.exit("; ".join(unknown))
    try:
        return settings()
    except ValidationError as error:
        sys.exit(f"bad {service} settings: {'; '.join(_problems(settings, error))}")
    except (SettingsError, OSError) as error:  # a file of secrets that cannot be read
        sys.exit(f"bad {service} settings: {error}")


def _problems(settings: type[BaseSettings], error: ValidationError) -> list[str]:
    """Return one line per bad value, without the value, which may hold a password."""
    return [
        f"{_prefix(settings)}{'__'.join(map(str, each['loc'])).upper()}: {each['msg']}"
        for each in error.errors(include_input=False, include_url=False)
    ]


def unknown_variables(settings: type[BaseSettings]) -> list[str]:
    """Return one readable line per variable or secret with the prefix that no field reads."""
    prefix = _prefix(settings)
    known = _names(settings)
    folder = secrets_dir()
    try:
        secrets = [] if folder is None else sorted(file.name for file in folder.iterdir())
    except OSError as error:
        return [f"{folder} cannot be read: {error.strerror}"]
    return [
        f"unknown {kind} {name}{_hint(name, known)}"
        for kind, names in (("setting", _given()), ("secret", secrets))
        for name in names
        if name.upper().startswith(prefix) and name.upper() not in known
    ]


def unknown_prefixes(services: Iterable[type[BaseSettings]]) -> list[str]:
    """Return one readable line per variable that begins with GALEN_ and then with no service."""
    services = list(services)
    known = {name for settings in services for name in _names(settings)} | {*_OF_COMMANDS}
    prefixes = (*map(_prefix, services), *_NO_SERVICE)
    return [
        f"{name} is ignored: no service has this prefix{_hint(name, known)}"
        for name in _given()
        if name.upper().startswith(_OURS)
        and not name.upper().startswith(prefixes)
        and name.upper() not in _OF_COMMANDS
    ]


def set_variables(names: Iterable[str]) -> list[str]:
    """Return which of these variables the environment has."""
    given = {name.upper() for name in _given()}
    return [name for name in names if name.upper() in given]


def _given() -> list[str]:
    return sorted(os.environ)  # noqa: TID251 - this is the guard of the settings


def _prefix(settings: type[BaseSettings]) -> str:
    return settings.model_config.get("env_prefix", "").upper()


def _names(settings: type[BaseSettings]) -> set[str]:
    return {f"{_prefix(settings)}{name}".upper() for name in settings.model_fields}


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.upper(), sorted(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
