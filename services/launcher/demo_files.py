"""What `galen up` serves and asks where no model is named: the miniature that ships with Galen.

How it was made is in its model card (`modeling/demo_model/README.md`). What does *not* live here:
serving it, which is done as with any other checkpoint.
"""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from services.launcher.terminal import CommandError

DEMO_MODEL_ID = "galen-demo"
DEMO_CHECKPOINT = Path(str(resources.files("modeling") / "demo_model"))
ENGINE_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")
_SCANS_FILE = "scans.json"


@dataclass(frozen=True, slots=True)
class DemoScan:
    """A drawn scan, something to ask about it, and what is right."""

    image: Path
    question: str
    answer: str


def demo_scan() -> DemoScan:
    """Return the scan that is asked about first."""
    scan = json.loads((DEMO_CHECKPOINT / _SCANS_FILE).read_text(encoding="utf-8"))["scans"][0]
    first = scan["questions"][0]
    return DemoScan(DEMO_CHECKPOINT / scan["image"], first["question"], first["answer"])


def check_packages(names: Sequence[str] = ENGINE_PACKAGES) -> None:
    """Raise CommandError where a package that the transformers engine needs is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(
            f"the transformers engine needs {', '.join(missing)}: pip install 'galen[worker]' "
            "(or try the platform without a model: --engine fake)"
        )
