"""LoRA adapters on transformers: each row of a batch runs with an adapter of its own, or none.

Lives here: which adapters are loaded, and what each row of the next forward pass runs with. What
does *not* live here: the layers (`adapter_layers.py`), which adapters there are
(`services/worker/adapters.py`), whether they fit (`modeling/adapter_files.py`).
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import Any

import structlog
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from modeling.adapter_files import WEIGHTS_FILE, AdapterError, AdapterFiles
from services.protocol.errors import ErrorCode, RequestError
from services.protocol.messages import GenerationRequest

log = structlog.get_logger(__name__)

BASE = "__base__"
"""Stands for no adapter: `adapter_layers.BASE`, which must not be imported before it is needed."""
_LAYERS = "services.worker.engines.adapter_layers"


def read_weights(adapter: AdapterFiles) -> dict[str, torch.Tensor]:
    """Read an adapter's weights, and PEFT itself, in any thread but the engine's.

    Raises:
        AdapterError: the file is unreadable, or holds NaN or infinity.
    """
    import_module(_LAYERS)  # a second, the first time
    file = adapter.path / WEIGHTS_FILE
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{file} is not readable ({type(error).__name__})") from error
    if weights.keys() != adapter.tensors.keys():
        raise AdapterError(f"{file} has changed while it was read")
    for name, tensor in weights.items():
        if tensor.shape != adapter.tensors[name].shape:
            raise AdapterError(f"{file} has changed while it was read")
        if not bool(torch.isfinite(tensor).all()):
            raise AdapterError(f"{file} is damaged: {name!r} holds NaN or infinity; copy it again")
    return weights


class AdapterRows:
    """The adapters of one model; used from the engine's thread only, between steps.

    Args:
        refusal: why this model can have none; None: it can.
    """

    def __init__(self, model: torch.nn.Module, refusal: str | None = None) -> None:
        self._model = model
        self._refusal = refusal
        self._layers: Any = None  # AdapterLayers, from the first adapter on
        self._keys: dict[str, str] = {}  # adapter to PEFT's name; a folder's name may have dots
        self._leaving: set[str] = set()
        self._numbers = itertools.count()

    def key_of(self, request: GenerationRequest) -> str:
        """Return what stands for a request's adapter in `set_rows`.

        Raises:
            RequestError: it is not loaded (any more).
        """
        if request.adapter is None:
            return BASE
        key = self._keys.get(request.adapter)
        if key is None:
            raise RequestError(
                ErrorCode.MODEL_NOT_FOUND,
                f"the adapter {request.adapter!r} is not loaded; see /v1/models",
                param="model",
            )
        return key

    def set_rows(self, keys: Sequence[str]) -> None:
        """Say with what each row of the next forward pass runs."""
        if self._layers is not None:
            self._layers.rows = list(keys)

    def load(self, adapter: AdapterFiles, weights: Mapping[str, torch.Tensor]) -> None:
        """Put an adapter into the model; an earlier one of its name stays for its running rows.

        Raises:
            AdapterError: this engine cannot run it.
        """
        if self._refusal is not None:
            raise AdapterError(f"{adapter.path}: {self._refusal}")
        if self._layers is None:
            self._layers = import_module(_LAYERS).AdapterLayers(self._model)
        key = f"adapter{next(self._numbers)}"
        try:
            self._layers.add(key, adapter, weights)
        except AdapterError:
            raise
        except Exception as error:
            self._layers.remove(key)
            log.exception("adapter.injection.failed", adapter=adapter.name)
            raise AdapterError(
                f"{adapter.path}: PEFT cannot put it into this model ({type(error).__name__})"
            ) from error
        self.forget(adapter.name)
        self._keys[adapter.name] = key

    def forget(self, name: str) -> None:
        """Give an adapter to no more rows; those that run go on."""
        key = self._keys.pop(name, None)
        if key is not None:
            self._leaving.add(key)

    def drop_unused(self, in_use: Collection[str]) -> None:
        """Free what was forgotten and no row runs with."""
        for key in self._leaving.difference(in_use):
            self._layers.remove(key)
            self._leaving.discard(key)
