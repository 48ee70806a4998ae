"""From Hugging Face layout back to LLaVA-Med v1.0's, for those who still run the old code.

That code (transformers 4.28) reads the safetensors written here where the package safetensors is
installed. It keeps its vision tower elsewhere, so the converted one's is left out. The projector's
two layers without activation are one: their product, which is the first where the second is the
identity.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from modeling.checkpoint_files import CheckpointError
from modeling.checkpoints.delta import PROJECTOR_PREFIX
from modeling.checkpoints.model_files import ORIGINAL, CopiedFiles, read_config, read_copied_files
from modeling.checkpoints.output_folder import (
    Destination,
    Recipe,
    write_folder,
    write_manifest,
)
from modeling.checkpoints.tensor_hash import TensorHash, checkpoint_hash, hash_tensor
from modeling.checkpoints.tensor_source import TensorSource
from modeling.checkpoints.tensor_writer import Output
from modeling.vllm_limits import NO_ACTIVATION

_PROJECTOR = "multi_modal_projector."
_DECODER = "language_model."


def convert_to_v1(source: TensorSource, to: Destination) -> None:
    """Write a converted v1.0 checkpoint in its original layout.

    Raises:
        CheckpointError: it was not made of a v1.0 checkpoint, or `to.out` cannot be written.
    """
    files = read_original(source.path)
    outputs = list(v1_outputs(source))
    recipe = Recipe("to-v1", {}, {"checkpoint": source})

    def write_rest(folder: Path, hashes: dict[str, TensorHash]) -> None:
        files.write(folder)
        used = {  # the decoder's tensors are copies, whose hashes are known
            name: hash_tensor(source.read(name))
            if name.startswith(_PROJECTOR)
            else hashes[name.removeprefix(_DECODER)]
            for name in source.tensors
            if name.startswith((_PROJECTOR, _DECODER))
        }
        source_hashes = {"checkpoint": checkpoint_hash(used)}
        write_manifest(folder, recipe, source_hashes, hashes, {})

    write_folder(to, recipe, outputs, write_rest)


def read_original(path: Path) -> CopiedFiles:
    """Return the small files that a conversion kept.

    Raises:
        CheckpointError: there are none, or they are not of a v1.0 checkpoint.
    """
    config = read_config(path)
    if config.get("projector_hidden_act") not in NO_ACTIVATION:
        raise CheckpointError(
            f"{path} has a projector with an activation: only what `galen convert v1` made goes "
            "back to v1.0's layout"
        )
    if not (path / ORIGINAL).is_dir():
        raise CheckpointError(
            f"{path} has no folder {ORIGINAL!r} with the tokenizer and the configuration that "
            "`galen convert v1` kept: copy it from the converted checkpoint that this was made of"
        )
    return read_copied_files(path / ORIGINAL)


def v1_outputs(source: TensorSource) -> Iterator[Output]:
    """Yield the tensors of v1.0's layout, in the stored types.

    Raises:
        CheckpointError: one is missing.
    """
    for name, stored in source.tensors.items():
        if name.startswith(_DECODER):
            original = name.removeprefix(_DECODER)
            yield Output(original, stored.dtype, stored.shape, partial(source.read, name))
    first = source.info(f"{_PROJECTOR}linear_1.weight")
    for part, make in (("weight", _folded_weight), ("bias", _folded_bias)):
        shape = first.shape if part == "weight" else first.shape[:1]
        yield Output(f"{PROJECTOR_PREFIX}{part}", first.dtype, shape, partial(make, source))


def _folded_weight(source: TensorSource) -> torch.Tensor:
    first, second = _layer(source, 1, "weight"), _layer(source, 2, "weight")
    if _is_identity(second):
        return first
    return (second.float() @ first.float()).to(first.dtype)


def _folded_bias(source: TensorSource) -> torch.Tensor:
    first, second = _layer(source, 1, "bias"), _layer(source, 2, "bias")
    weight = _layer(source, 2, "weight")
    moved = first if _is_identity(weight) else weight.float() @ first.float()
    return (moved.float() + second.float()).to(first.dtype)


def _layer(source: TensorSource, number: int, part: str) -> torch.Tensor:
    return source.read(f"{_PROJECTOR}linear_{number}.{part}")


def _is_identity(weight: torch.Tensor) -> bool:
    return torch.equal(weight, torch.eye(weight.shape[0], dtype=weight.dtype))
