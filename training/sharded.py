"""A model divided over several cards: torch's FSDP2, called by us, inside transformers' Trainer.

Accelerate would wrap the model itself, and on CPU silently falls back to copies (DDP); so the model
is sharded before the Trainer gets it, and says that it is placed (`shard`). The Trainer then casts
and steps, and does nothing else. CPU (gloo) and GPU (NCCL) run the same lines.

Each decoder layer is a group of its own; projector, embeddings, head and a trained tower are the
root's. So whatever a micro-batch holds, images or none, each card takes part in the same
communication. A frozen tower is not divided: it is small, and only some cards may run it. What does
*not* live here: parts written and read (`run_state.py`), and the processes (torchrun).
"""

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed import get_world_size, is_available, is_initialized
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from training.config import TrainConfig

_DECODER_LAYER = re.compile(r"(^|\.)language_model\.layers\.\d+$")
_TOWER = re.compile(r"(^|\.)vision_tower$")


def num_ranks() -> int:
    """Return how many processes train together."""
    return get_world_size() if is_available() and is_initialized() else 1


def shard(model: nn.Module, config: TrainConfig, device: torch.device) -> None:
    """Divide a model over all ranks, in place, and mark it as placed; alone, leave it as it is.

    Args:
        model: what the Trainer gets, PEFT's wrapper included. Its forward is the only way in, as
            what it holds beside the layers is whole only there. Trained parameters are float32
            already, the rest has its final dtype; 4-bit weights are on `device` already.
        device: this rank's. The group of processes exists (`TrainingArguments.device` makes it).
    """
    if num_ranks() == 1:
        return
    whole = _whole_parameters(model)
    for parameter in whole:  # FSDP moves what it divides, and all buffers
        parameter.data = parameter.data.to(device)
    options: dict[str, Any] = {
        "mesh": _mesh(config, device),
        "mp_policy": _policy(config),
        "ignored_params": whole,
    }
    for layer in _modules_called(model, _DECODER_LAYER):
        fully_shard(layer, **options)
    fully_shard(model, **options)
    for part in _divided_modules(model):
        part.set_force_sum_reduction_for_comms(True)  # gloo has no average
        part.set_reduce_scatter_unused_params(True)
    _mark_as_placed(model)


def begin_micro_batch(model: nn.Module, config: TrainConfig, *, is_last: bool) -> None:
    """Say whether gradients are averaged over the ranks after the next backward pass.

    Until they are, they wait whole on each card, in float32. Those of a whole language model would
    take as much as it did before it was divided, so these are averaged after each pass.
    Every rank runs as many micro-batches in a step: empty ones where it has fewer.
    """
    if isinstance(model, FSDPModule):
        is_large = config.train.language_model == "full" and config.devices.sharding == "full"
        model.set_requires_gradient_sync(is_last or is_large)


def as_part_of(parameter: nn.Parameter, local: torch.Tensor) -> torch.Tensor:
    """Return a tensor of an optimizer's state, of which `local` is this rank's part, divided alike.

    Without the whole's shape torch takes all parts for equal, and the next step fails where a
    parameter's first dimension is no multiple of the number of ranks (a tower's positions: 577).
    """
    whole = parameter.data
    if not isinstance(whole, DTensor) or local.shape != whole.to_local().shape:
        return local  # a counter, or moments packed in blocks
    return DTensor.from_local(
        local,
        whole.device_mesh,
        whole.placements,
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),
    )


def _mesh(config: TrainConfig, device: torch.device) -> DeviceMesh:
    """Return over which ranks a parameter is divided, and over which it is copied."""
    if config.devices.sharding == "none":
        return init_device_mesh(device.type, (num_ranks(), 1), mesh_dim_names=("copies", "parts"))
    return init_device_mesh(device.type, (num_ranks(),), mesh_dim_names=("parts",))


def _policy(config: TrainConfig) -> MixedPrecisionPolicy:
    """Return in which dtypes parameters are computed with, and gradients added up.

    They are cast as they are brought together: autocast, which would do it else, keeps what it has
    cast until the forward pass is over, all layers of it.
    """
    if config.model.precision == "fp32":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def _whole_parameters(model: nn.Module) -> set[nn.Parameter]:
    """Return what is not divided: a frozen tower, and weights in 4 bits, which are packed bytes."""
    whole = {p for p in model.parameters() if not p.is_floating_point()}
    for tower in _modules_called(model, _TOWER):
        parameters = set(tower.parameters())
        if not any(p.requires_grad for p in parameters):
            whole |= parameters
    return whole


def _modules_called(model: nn.Module, name: re.Pattern[str]) -> list[nn.Module]:
    return [module for path, module in model.named_modules() if name.search(path)]


def _divided_modules(model: nn.Module) -> Iterator[FSDPModule]:
    return (module for module in model.modules() if isinstance(module, FSDPModule))


def _mark_as_placed(model: nn.Module) -> None:
    """Tell the Trainer neither to move, nor to wrap, nor to divide the model (`Trainer.__init__`).

    It asks `model.is_distributed_loading_by_transformers`, which reads this attribute
    (transformers 5.19, distributed/mixin.py).
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    inner._is_distributed_loading_by_transformers = True  # type: ignore[attr-defined]
    if not getattr(model, "is_distributed_loading_by_transformers", False):
        raise RuntimeError("this transformers does not let a model say that it is placed")
