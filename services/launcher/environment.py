"""The environment of the services that a command of ours starts."""

import os
from collections.abc import Mapping
from pathlib import Path

from services.worker.settings import child_environment

_SOURCE_ROOT = Path(__file__).parents[2]


def service_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return ours with `settings`; a folder `services` where the user stands is not imported."""
    known = child_environment(**settings)
    paths = [str(_SOURCE_ROOT), *filter(None, [known.get("PYTHONPATH")])]
    return known | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # a bar in a log is noise; transformers obeys it too
    }
