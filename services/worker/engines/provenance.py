"""What makes a checkpoint's answers, for the card of a worker and the receipt of an evaluation.

What does *not* live here: the image recipe (`checkpoint.py`).
"""

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import ProcessorMixin

from modeling.checkpoint_files import open_checkpoint, sampled_fingerprint
from services.protocol.messages import Provenance


def provenance_of(
    path: Path,
    processor: ProcessorMixin,
    *,
    dtype: torch.dtype,
    quantization: str,
    libraries: Sequence[str],
) -> Provenance:
    """Return it; reads up to 12 KiB of each tensor.

    Args:
        quantization: the worker's setting.
        libraries: distributions whose versions are told.

    Raises:
        CheckpointError, OSError: the files have changed since they were loaded.
    """
    return Provenance(
        checkpoint_fingerprint=sampled_fingerprint(open_checkpoint(path)),
        template_sha256=template_hash(processor),
        dtype=str(dtype).removeprefix("torch."),
        quantization="" if quantization == "none" else quantization,
        versions=", ".join(f"{name} {version(name)}" for name in libraries),
    )


def template_hash(processor: ProcessorMixin) -> str:
    """Return a hash of the chat template's text; of several, of all with their names."""
    template: object = getattr(processor, "chat_template", None)
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
