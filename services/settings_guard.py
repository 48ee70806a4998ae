"""A misspelt environment variable is told instead of being ignored.

pydantic-settings reads the variables that it knows and passes over all others, so that
`GALEN_WORKER_SLTOS=8` would silently mean the default. An unknown name with a service's prefix
stops the start; one with a prefix that nobody has may belong to something else, and is a warning.
"""

import difflib
import os  # the only module beside the settings that looks at the environment
import sys
from collections.abc import Iterable
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings

S = TypeVar("S", bound=BaseSettings)

_OURS = "GALEN_"
_NO_SERVICE = ("GALEN_BENCH_",)
"""Prefixes of programs beside the services."""
_OF_COMMANDS = ("GALEN_ADMIN_KEY", "GALEN_API_KEY", "GALEN_UP_WORKER_PYTHON")
"""Variables of `galen` itself."""


def settings_or_exit(settings: type[S], service: str) -> S:
    """Read a service's settings; a bad value or a misspelt name ends the process with its line."""
    unknown = unknown_variables(settings)
    if unknown:
        sys.exit("; ".join(unknown))
    try:
        return settings()
    except ValidationError as error:
        sys.exit(f"bad {service} settings: {'; '.join(_problems(settings, error))}")


def _problems(settings: type[BaseSettings], error: ValidationError) -> list[str]:
    """Return one line per bad value, without the value, which may hold a password."""
    return [
        f"{_prefix(settings)}{'__'.join(map(str, each['loc'])).upper()}: {each['msg']}"
        for each in error.errors(include_input=False, include_url=False)
    ]


def unknown_variables(settings: type[BaseSettings]) -> list[str]:
    """Return one readable line per environment variable with the prefix that no field reads."""
    prefix = _prefix(settings)
    known = _names(settings)
    return [
        f"unknown setting {name}{_hint(name, known)}"
        for name in _given()
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
