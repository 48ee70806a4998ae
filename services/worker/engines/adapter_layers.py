"""PEFT's layers in a model: one wrapper around each adapted module, while an adapter needs it.

A wrapper takes the adapters of the batch's rows as an argument (`adapter_names`); a hook gives it
to them. A row without an adapter gets the base module's output untouched. Imported when the first
adapter is loaded. What does *not* live here: which rows there are (`adapter_rows.py`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer, LoraModel

from modeling.adapter_files import (
    AdapterError,
    AdapterFiles,
    adapted_modules,
    module_key,
    rank_and_alpha,
)

BASE = "__base__"
"""PEFT's name for a row without an adapter (`peft.tuners.lora.layer`)."""


class AdapterLayers:
    """The adapters' weights inside one model; only from the engine's thread, between steps.

    Attributes:
        rows: the key of each row's adapter, or `BASE`, in the next forward pass.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._model = model
        self._tuner: LoraModel | None = None  # while there is an adapter
        self._wrapped: set[str] = set()  # paths in the model
        self.rows: list[str] = []

    def add(self, key: str, adapter: AdapterFiles, weights: Mapping[str, torch.Tensor]) -> None:
        """Put an adapter in under `key`, which holds no dot.

        Raises:
            AdapterError: it changes what is no linear layer of this model.
        """
        places = self._places(adapter)
        self._wrap(key, _config(adapter, places))
        self._fill(key, places, weights)

    def remove(self, key: str) -> None:
        """Delete an adapter's weights, and the wrappers that hold none any more."""
        configs: dict[str, LoraConfig] = getattr(self._model, "peft_config", {})
        configs.pop(key, None)
        for path, layer in list(self._model.named_modules()):
            if not isinstance(layer, LoraLayer):
                continue
            if key in layer.active_adapters:
                layer.set_adapter([])
            layer.delete_adapter(key)
            if not layer.lora_A:
                parent, _, name = path.rpartition(".")
                setattr(self._model.get_submodule(parent), name, layer.get_base_layer())
                self._wrapped.discard(path)
        if not configs:
            self._tuner = None
            if hasattr(self._model, "peft_config"):
                del self._model.peft_config

    def _places(self, adapter: AdapterFiles) -> dict[str, str]:
        """Return the model's path of each adapted module, as the adapter writes it."""
        linear = (torch.nn.Linear, LoraLayer)
        own = {
            module_key(path): path
            for path, module in self._model.named_modules()
            if isinstance(module, linear) and not path.endswith(".base_layer")
        }
        places: dict[str, str] = {}
        for module in adapted_modules(adapter.tensors):
            path = own.get(module_key(module))
            if path is None:
                raise AdapterError(
                    f"{adapter.path} changes {module!r}, which is no linear layer of this model"
                )
            places[module] = path
        return places

    def _wrap(self, key: str, config: LoraConfig) -> None:
        """Put PEFT's layers in place, without weights (on the device `meta`)."""
        if self._tuner is None:
            self._tuner = LoraModel(self._model, config, key, low_cpu_mem_usage=True)
        else:
            self._tuner.peft_config[key] = config
            self._tuner.inject_adapter(self._model, key, low_cpu_mem_usage=True)

    def _fill(
        self, key: str, places: Mapping[str, str], weights: Mapping[str, torch.Tensor]
    ) -> None:
        """Copy the weights in; a layer that is new in the model learns to ask for the rows."""
        dtype: Any = getattr(self._model, "dtype", torch.float32)
        for module, path in places.items():
            layer: Any = self._model.get_submodule(path)
            device = layer.get_base_layer().weight.device
            for side, matrices in (("A", layer.lora_A), ("B", layer.lora_B)):
                weight = weights[f"base_model.model.{module}.lora_{side}.weight"]
                matrices[key].weight = torch.nn.Parameter(
                    weight.to(device, dtype), requires_grad=False
                )
            if path not in self._wrapped:
                self._wrapped.add(path)
                layer.register_forward_pre_hook(self._give_rows, with_kwargs=True)

    def _give_rows(
        self, layer: torch.nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Hook: the rows' adapters; a prompt's several images are all of its one row."""
        del layer
        rows = self.rows
        if len(rows) == 1 and len(inputs[0]) != 1:
            rows = rows * len(inputs[0])
        return inputs, {**options, "adapter_names": rows}


def _config(adapter: AdapterFiles, places: Mapping[str, str]) -> LoraConfig:
    """Return PEFT's configuration with every module, rank and alpha spelt out."""
    said = {path: rank_and_alpha(adapter.config, module) for module, path in places.items()}
    alphas: dict[str, Any] = {path: alpha for path, (_, alpha) in said.items()}
    return LoraConfig(
        r=adapter.rank,
        target_modules=list(said),
        rank_pattern={path: rank for path, (rank, _) in said.items()},
        alpha_pattern=alphas,
        use_rslora=bool(adapter.config.get("use_rslora")),
        inference_mode=True,
    )
