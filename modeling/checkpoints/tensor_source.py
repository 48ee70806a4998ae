"""A directory's weights, one tensor at a time: safetensors, or the pickled shards of old releases.

Pickles go through torch's weights-only reader, which builds tensors and runs nothing; files are
mapped into memory, so that only what is looked at is read. The one exception are files of torch
before 1.6, which cannot be mapped: small ones are read as a whole. What does *not* live here:
writing (`tensor_writer.py`) and what tensors mean.
"""

import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from modeling.checkpoint_files import (
    DTYPE_BYTES,
    CheckpointError,
    read_tensors,
    read_weight_map,
)

PICKLE_INDEX = "pytorch_model.bin.index.json"
ROTARY_BUFFER = "rotary_emb.inv_freq"
"""End of a name in old files: made from the configuration by every loader, zeros in deltas."""
_PICKLE = "pytorch_model.bin"
_LFS_POINTER = b"version https://git-lfs"
_NAMES: Mapping[torch.dtype, str] = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
DTYPES: Mapping[str, torch.dtype] = {name: dtype for dtype, name in _NAMES.items()}
"""torch's types by the names that safetensors has for them."""
_UNREAD: Mapping[torch.dtype, str] = {
    torch.uint16: "U16", torch.uint32: "U32", torch.uint64: "U64", torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
"""Types that are described but not read."""
_ZIP = b"PK\x03\x04"
_MOST_UNMAPPED_BYTES = 256_000_000
"""Of one directory: those of a base and its delta stay below the 512 MB that a conversion takes."""


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
            CheckpointError: there is none of that name, it is of a type that is not read, or its
                file is damaged.
        """
        info = self.info(name)
        _refuse_unread(info)
        if self._pickled is not None:
            return self._pickled[name]
        try:
            if info.file not in self._open:
                self._open[info.file] = safe_open(info.file, framework="pt")
            return self._open[info.file].get_tensor(name)
        except SafetensorError as error:
            why = " ".join(str(error).split())
            raise CheckpointError(f"{info.file} is damaged ({why}); copy it again") from error

    def refuse_unread_types(self) -> None:
        """Raise CheckpointError where `read` would refuse a tensor for its type."""
        for info in self.tensors.values():
            _refuse_unread(info)

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
        tensors = {
            name: StoredTensor(name, info.dtype, info.shape, info.file)
            for name, info in read_tensors(path).items()
        }
        _refuse_empty(path, tensors)
        return TensorSource(path, tensors)
    tensors, pickled = {}, {}
    files = _pickled_files(path)
    _refuse_unmapped(files)
    for file in files:
        for name, tensor in read_pickle(file).items():
            if name in tensors:
                raise CheckpointError(f"{file} holds {name!r}, and so does {tensors[name].file}")
            dtype = _known_dtype(file, name, tensor)
            tensors[name] = StoredTensor(name, dtype, (*tensor.shape,), file)
            pickled[name] = tensor
    _check_pickle_index(path, tensors)
    _refuse_empty(path, tensors)
    return TensorSource(path, tensors, pickled)


def read_pickle(file: Path) -> dict[str, torch.Tensor]:
    """Read one pickled state dict; its numbers stay in the mapped file.

    Raises:
        CheckpointError: it is missing, damaged, cannot be mapped and is too large to be read as a
            whole, or holds other things than tensors.
    """
    head = _head(file)
    if head == _LFS_POINTER:
        raise CheckpointError(f"{file} is a Git LFS pointer, no weights: git lfs pull")
    is_mapped = head.startswith(_ZIP)
    if is_mapped:
        _refuse_compressed(file)
    else:
        _refuse_unmapped([file])
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=is_mapped)
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
    for name, tensor in found.items():
        _refuse_hollow(file, name, tensor)
    return {name: tensor.detach() for name, tensor in found.items()}


def numel(shape: tuple[int, ...]) -> int:
    """Return the number of elements."""
    return math.prod(shape)  # a header's sizes may be larger than torch's


def dtype_name(dtype: torch.dtype) -> str:
    """Return safetensors' name of a type."""
    return _NAMES[dtype]


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(len(_LFS_POINTER))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror})") from error


def _refuse_compressed(file: Path) -> None:
    """A mapped record is taken as it lies in the file: a compressed one would be other numbers."""
    try:
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise CheckpointError(f"{file} is damaged or cut short; copy it again") from error
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(
                f"{file} is compressed ({record.filename!r}), torch's own files are not: load it "
                "and save its state dict again with torch.save"
            )


def _refuse_unmapped(files: Iterable[Path]) -> None:
    """Refuse files that would be read as a whole, where they are large together."""
    old = [file for file in files if not _head(file).startswith(_ZIP)]
    size = sum(file.stat().st_size for file in old)
    if size > _MOST_UNMAPPED_BYTES:
        raise CheckpointError(
            f"{old[0]} is in the format of torch before 1.6, which is read as a whole: "
            f"{_MOST_UNMAPPED_BYTES / 1e6:.0f} MB are taken in a directory, not {size / 1e6:.0f}; "
            "load it and save its state dict again with torch.save"
        )


def _refuse_hollow(file: Path, name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor that has a shape and not the numbers for it."""
    if tensor.device.type != "cpu":
        raise CheckpointError(
            f"{file}: {name!r} was saved without its numbers (device {tensor.device.type!r}): "
            "load the model and save it again"
        )
    if tensor.layout != torch.strided:
        raise CheckpointError(
            f"{file}: {name!r} is of a layout that is not known: {tensor.layout}; save it dense"
        )
    # A view may claim more than its file holds: a few bytes that would become terabytes.
    if tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size():
        raise CheckpointError(f"{file}: {name!r} claims more numbers than the file holds")


def _known_dtype(file: Path, name: str, tensor: torch.Tensor) -> str:
    found = _NAMES.get(tensor.dtype) or _UNREAD.get(tensor.dtype)
    if found is None:
        raise CheckpointError(f"{file}: {name!r} is of a type that is not known: {tensor.dtype}")
    return found


def _refuse_unread(info: StoredTensor) -> None:
    if info.dtype not in DTYPES:
        raise CheckpointError(
            f"{info.file}: {info.name!r} is of a type that is not known to conversions: "
            f"{info.dtype}; take the checkpoint in float32, float16 or bfloat16"
        )


def _refuse_empty(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    if not tensors:
        raise CheckpointError(f"{path} has files of weights without a tensor; copy them again")
    for tensor in tensors.values():
        if numel(tensor.shape) == 0:
            raise CheckpointError(
                f"{tensor.file}: {tensor.name!r} has no numbers, its shape is "
                f"{list(tensor.shape)}: it was saved from one part of a model that lay on several "
                "devices; save the whole"
            )


def _pickled_files(path: Path) -> list[Path]:
    index = path / PICKLE_INDEX
    if not index.is_file():
        file = path / _PICKLE
        if not file.is_file():
            raise CheckpointError(
                f"{path} has no weights: neither *.safetensors nor {_PICKLE} nor {PICKLE_INDEX}"
            )
        return [file]
    files = [path / name for name in sorted(set(read_weight_map(index).values()))]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{path} is incomplete: {file.name} is missing; copy it again")
    return files


def _check_pickle_index(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    index = path / PICKLE_INDEX
    for name, file in read_weight_map(index).items() if index.is_file() else ():
        if name not in tensors:
            raise CheckpointError(f"{path} is incomplete: {name!r} is not in {file}; copy it again")
