"""A misspelt environment variable stops the start instead of being ignored.

pydantic-settings reads the variables that it knows and passes over all others, so that
`GALEN_WORKER_SLTOS=8` would silently mean the default.
"""

import difflib
import os  # the only module beside the settings that looks at the environment

from pydantic_settings import BaseSettings


def unknown_variables(settings: type[BaseSettings]) -> list[str]:
    """Return one readable line per environment variable with the prefix that no field reads."""
    prefix = settings.model_config.get("env_prefix", "")
    known = {f"{prefix}{name}".upper() for name in settings.model_fields}
    lines: list[str] = []
    for name in sorted(os.environ):  # noqa: TID251 - this is the guard of the settings
        if name.upper().startswith(prefix.upper()) and name.upper() not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            lines.append(f"unknown setting {name}{hint}")
    return lines
