"""A directory's weights, one tensor at a time: safetensors, or the pickled shards of old releases.

Pickles go through torch's weights-only reader, which builds tensors and runs nothing; files are
mapped into memory, so that only what is looked at is read. What does *not* live here: writing
(`tensor_writer.py`) and what tensors mean.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from modeling.checkpoint_files import DTYPE_BYTES, CheckpointError, read_json, read_tensors

PICKLE_INDEX = "pytorch_model.bin.index.json"
_PICKLE = "pytorch_model.bin"
_LFS_POINTER = b"version https://git-lfs"
_NAMES: Mapping[torch.dtype, str] = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
DTYPES: Mapping[str, torch.dtype] = {name: dtype for dtype, name in _NAMES.items()}
"""torch's types by the names that safetensors has for them."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """What is known of a tensor before it is read.

    Args:
        dtype: safetensors' name, such as BF16.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path

    @property
    def num_bytes(self) -> int:
        """Of its numbers."""
        return numel(self.shape) * DTYPE_BYTES[self.dtype]


class TensorSource:
    """All tensors of a directory.

    Tensors that are read lie in mapped files: nobody may change them.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, StoredTensor],
        pickled: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.path = path
        self.tensors = dict(tensors)
        self._pickled = pickled
        self._open: dict[Path, Any] = {}  # safetensors' handles, which have no public type

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor, not to be changed.

        Raises:
            CheckpointError: there is none of that name, or its file is damaged.
        """
        info = self.info(name)
        if self._pickled is not None:
            return self._pickled[name]
        if info.file not in self._open:
            self._open[info.file] = safe_open(info.file, framework="pt")
        return self._open[info.file].get_tensor(name)

    def info(self, name: str) -> StoredTensor:
        """Return what is known of a tensor; raises CheckpointError where there is none."""
        if name not in self.tensors:
            raise CheckpointError(
                f"{self.path} has no tensor {name!r}: a file of it is missing, or this is a "
                "checkpoint of another kind (`galen inspect` says which)"
            )
        return self.tensors[name]

    @property
    def files(self) -> list[Path]:
        """The files that hold its tensors."""
        return sorted({tensor.file for tensor in self.tensors.values()})


def open_tensors(path: Path) -> TensorSource:
    """Open a directory's weights: safetensors where there are any, else pickled shards.

    Raises:
        CheckpointError: there are none, one is missing or damaged, or a pickle holds other things
            than tensors.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path} is no directory: give the folder of a checkpoint")
    if any(path.glob("*.safetensors")):
        _refuse_outside(path, "*.safetensors.index.json")
        tensors = {
            name: StoredTensor(name, info.dtype, info.shape, info.file)
            for name, info in read_tensors(path).items()
        }
        return TensorSource(path, tensors)
    tensors, pickled = {}, {}
    for file in _pickled_files(path):
        for name, tensor in read_pickle(file).items():
            if name in tensors:
                raise CheckpointError(f"{file} holds {name!r}, and so does {tensors[name].file}")
            dtype = _checked_dtype(file, name, tensor)
            tensors[name] = StoredTensor(name, dtype, (*tensor.shape,), file)
            pickled[name] = tensor
    _check_pickle_index(path, tensors)
    return TensorSource(path, tensors, pickled)


def read_pickle(file: Path) -> dict[str, torch.Tensor]:
    """Read one pickled state dict; its numbers stay in the mapped file.

    Raises:
        CheckpointError: it is missing, damaged, or holds other things than tensors.
    """
    try:
        with file.open("rb") as stream:
            is_pointer = stream.read(len(_LFS_POINTER)) == _LFS_POINTER
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror})") from error
    if is_pointer:
        raise CheckpointError(f"{file} is a Git LFS pointer, no weights: git lfs pull")
    try:
        found = _load(file)
    except Exception as error:  # a damaged file makes the reader raise what it likes
        if "Weights only load failed" in str(error):
            raise CheckpointError(
                f"{file} holds more than tensors: torch's weights-only reader refuses it; "
                "take the file from its publisher again"
            ) from error
        raise CheckpointError(f"{file} is damaged or cut short; copy it again") from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in found.items()
    ):
        raise CheckpointError(f"{file} is no table of names and tensors: not a checkpoint's shard")
    return found


def numel(shape: tuple[int, ...]) -> int:
    """Return the number of elements."""
    return torch.Size(shape).numel()


def dtype_name(dtype: torch.dtype) -> str:
    """Return safetensors' name of a type."""
    return _NAMES[dtype]


def _load(file: Path) -> Any:  # whatever was pickled
    # Files of torch before 1.6 cannot be mapped: those are read as a whole.
    with contextlib.suppress(RuntimeError):
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return torch.load(file, map_location="cpu", weights_only=True)


def _checked_dtype(file: Path, name: str, tensor: torch.Tensor) -> str:
    if tensor.layout != torch.strided or tensor.dtype not in _NAMES:
        raise CheckpointError(f"{file}: {name!r} is of a type that is not known: {tensor.dtype}")
    # A view may claim more than its file holds: a few bytes that would become terabytes.
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise CheckpointError(f"{file}: {name!r} claims more numbers than the file holds")
    return _NAMES[tensor.dtype]


def _pickled_files(path: Path) -> list[Path]:
    index = path / PICKLE_INDEX
    if not index.is_file():
        file = path / _PICKLE
        if not file.is_file():
            raise CheckpointError(
                f"{path} has no weights: neither *.safetensors nor {_PICKLE} nor {PICKLE_INDEX}"
            )
        return [file]
    _refuse_outside(path, PICKLE_INDEX)
    files = [path / name for name in sorted(set(_weight_map(index).values()))]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{path} is incomplete: {file.name} is missing; copy it again")
    return files


def _refuse_outside(path: Path, indices: str) -> None:
    """Refuse an index that names a file anywhere but beside it."""
    for index in sorted(path.glob(indices)):
        for file in _weight_map(index).values():
            if file != Path(file).name or file in {"", ".", ".."} or "\\" in file:
                raise CheckpointError(
                    f"{index} names {file!r}, which is outside its directory: shards lie beside it"
                )


def _weight_map(index: Path) -> dict[str, str]:
    entries = read_json(index)
    named = entries.get("weight_map") if isinstance(entries, dict) else None
    if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
        raise CheckpointError(f"{index} has no weight_map of tensors and files")
    return named


def _check_pickle_index(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    index = path / PICKLE_INDEX
    for name, file in _weight_map(index).items() if index.is_file() else ():
        if name not in tensors:
            raise CheckpointError(f"{path} is incomplete: {name!r} is not in {file}; copy it again")
