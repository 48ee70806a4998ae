"""The environment of the services that a command of ours starts."""

import os
from collections.abc import Mapping
from pathlib import Path

from services.worker.settings import child_environment

_SOURCE_ROOT = Path(__file__).parents[2]


def service_environment(
    settings: Mapping[str, str], *, is_other_python: bool = False
) -> dict[str, str]:
    """Return ours with `settings`; a folder `services` where the user stands is not imported.

    Args:
        is_other_python: another interpreter gets our source, but never our installed packages.
    """
    known = child_environment(**settings)
    is_source = _SOURCE_ROOT.name not in ("site-packages", "dist-packages")
    own = [str(_SOURCE_ROOT)] if is_source or not is_other_python else []
    paths = [*own, *filter(None, [known.get("PYTHONPATH")])]
    return known | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # a bar in a log is noise; transformers obeys it too
    }
