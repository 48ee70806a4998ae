"""A checkpoint in Hugging Face layout, looked at without loading it: no torch, milliseconds.

Lives here: what a checkpoint directory may hold (no code, no pickles), its configuration, and what
the headers of its safetensors files say, checked against the files' sizes. What does *not* live
here: loading weights (the engines) and what fits into memory (`planner.py`).

Format of safetensors: 8 bytes little-endian length N, N bytes of JSON, then the tensors' bytes
(https://github.com/huggingface/safetensors#format).
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DTYPE_BYTES: Mapping[str, int] = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8,
    "F32": 4, "I32": 4, "U32": 4,
    "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes per element of the types that a safetensors file may hold."""

_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
_MOST_HEADER_BYTES = 100 << 20
"""Of one file; the limit of the reference implementation."""
_MOST_JSON_BYTES = 64 << 20
"""Of a configuration or an index; those of published models stay below 1 MiB."""
_LFS_POINTER = b"version https://git-lfs"
_SAMPLE_BYTES = 4096
_ORIGINAL_PROJECTOR = "model.mm_projector."  # of LLaVA's and LLaVA-Med's own code


class CheckpointError(Exception):
    """A checkpoint is refused; the message is one line: what is wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a header says of one tensor.

    Args:
        dtype: safetensors' name, such as BF16.
        start: of its bytes, from the beginning of the file.
    """

    dtype: str
    shape: tuple[int, ...]
    num_bytes: int
    file: Path
    start: int


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """A checked checkpoint directory.

    Args:
        config: config.json, parsed.
        tensors: by name, from the headers of all safetensors files.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors together, as stored."""
        return sum(info.num_bytes for info in self.tensors.values())


def open_checkpoint(path: Path) -> CheckpointFiles:
    """Check a checkpoint directory and read its headers.

    Raises:
        CheckpointError: it is missing, incomplete or damaged, or brings code or pickles.
    """
    try:
        return _open(path)
    except OSError as error:
        raise CheckpointError(f"{path} is not readable ({error.strerror})") from error


def _open(path: Path) -> CheckpointFiles:
    if not path.is_dir():
        raise CheckpointError(f"{path} is no directory: give a checkpoint in Hugging Face layout")
    if not (path / "config.json").is_file():
        raise CheckpointError(f"{path} has no config.json: not a checkpoint in Hugging Face layout")
    refuse_code(path)
    config = read_json(path / "config.json")
    if not isinstance(config, dict):
        raise CheckpointError(f"{path / 'config.json'} holds no JSON object")
    tensors = read_tensors(path)
    if any(name.startswith(_ORIGINAL_PROJECTOR) for name in tensors):
        raise CheckpointError(
            f"{path} is a LLaVA in its original layout, which no engine loads: convert it first, "
            f"`galen inspect {path}` says with which command"
        )
    return CheckpointFiles(path, config, tensors)


def refuse_without_processor(path: Path) -> None:
    """Refuse a directory that lacks what turns words and images into a model's input.

    Raises:
        CheckpointError: with the file that is missing.
    """
    if not (path / "tokenizer.json").is_file():
        raise CheckpointError(f"{path} has no fast tokenizer (tokenizer.json); convert it first")
    if not any((path / name).is_file() for name in _PROCESSOR_FILES):
        raise CheckpointError(
            f"{path} has no image processor ({' or '.join(_PROCESSOR_FILES)}); "
            "copy it from the model's repository"
        )


def refuse_code(path: Path) -> None:
    """Refuse what could run code: Python files, pickled weights, `auto_map` in a configuration.

    Raises:
        CheckpointError: with what was found.
    """
    for file in sorted(path.rglob("*")):
        if file.suffix == ".py":
            raise CheckpointError(f"{file} is code: checkpoints that bring code are not loaded")
        if file.suffix in _PICKLES:
            raise CheckpointError(
                f"{file} may be a pickle, which can run code: only safetensors are loaded; "
                f"`galen inspect {path}` says how it is converted"
            )
    for file in sorted(path.rglob("*config.json")):
        if "auto_map" in _keys_in(read_json(file)):
            raise CheckpointError(
                f"{file} has an auto_map: checkpoints that bring code are not loaded"
            )


def read_tensors(path: Path) -> dict[str, TensorInfo]:
    """Read the headers of all safetensors files of a directory; compare them with their index.

    Raises:
        CheckpointError: there is none, one is damaged, or the index names what is not there.
    """
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"{path} has no safetensors weights; convert them first")
    tensors: dict[str, TensorInfo] = {}
    for file in files:
        for name, info in read_header(file).items():
            if name in tensors:
                raise CheckpointError(f"{file} holds {name!r}, and so does {tensors[name].file}")
            tensors[name] = info
    for index in sorted(path.glob("*.safetensors.index.json")):
        _check_index(index, tensors)
    return tensors


def read_weight_map(index: Path) -> dict[str, str]:
    """Return which file holds which tensor, by a checkpoint's index.

    Raises:
        CheckpointError: it is no index, or it names a file anywhere but beside it.
    """
    entries = read_json(index)
    named = entries.get("weight_map") if isinstance(entries, dict) else None
    if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
        raise CheckpointError(f"{index} has no weight_map of tensors and files; copy it again")
    for file in named.values():
        if file != Path(file).name or file in {"", ".", ".."} or "\\" in file or "\0" in file:
            raise CheckpointError(
                f"{index} names {file!r}, which is outside its directory: shards lie beside it; "
                "take the index from its publisher again"
            )
    return named


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Read one file's header and check it against the file's size; reads no weights.

    Raises:
        CheckpointError: the file is cut short, its header lies, or its tensors overlap.
    """
    try:
        length, blob, size = _read_header_bytes(file)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({type(error).__name__})") from error
    try:
        header = json.loads(blob, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _damaged(file, "its header is no JSON of names that differ") from error
    if not isinstance(header, dict):
        raise _damaged(file, "its header is no JSON object")
    header.pop("__metadata__", None)
    tensors = {name: _tensor(file, name, entry, 8 + length) for name, entry in header.items()}
    _check_layout(file, tensors, 8 + length, size)
    return tensors


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raises ValueError for a name twice, of which readers take either."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found


def sampled_fingerprint(files: CheckpointFiles) -> str:
    """Return a hash that tells one checkpoint from another without reading all of it.

    SHA-256 over the names, types and shapes of all tensors in order, and over up to 4 KiB from the
    beginning, the middle and the end of each.
    """
    digest = hashlib.sha256()
    for name in sorted(files.tensors):
        info = files.tensors[name]
        digest.update(f"{name}|{info.dtype}|{info.shape}|".encode())
        with info.file.open("rb") as stream:
            last = max(0, info.num_bytes - _SAMPLE_BYTES)
            for offset in sorted({0, last // 2, last}):
                stream.seek(info.start + offset)
                digest.update(stream.read(min(_SAMPLE_BYTES, info.num_bytes - offset)))
    return digest.hexdigest()


def read_json(file: Path) -> Any:
    """Parse a JSON file; raises CheckpointError with its name."""
    try:
        with file.open("rb") as stream:
            blob = stream.read(_MOST_JSON_BYTES + 1)
        if len(blob) > _MOST_JSON_BYTES:
            raise CheckpointError(f"{file} is larger than {_MOST_JSON_BYTES >> 20} MiB: no JSON")
        return json.loads(blob)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not readable JSON ({type(error).__name__})") from error


def _read_header_bytes(file: Path) -> tuple[int, bytes, int]:
    """Return the header's length, the header, and the size of the file."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
        length = int.from_bytes(head, "little") if len(head) == 8 else -1
        if not 2 <= length <= min(size - 8, _MOST_HEADER_BYTES):
            if (head + stream.read(len(_LFS_POINTER) - 8)).startswith(_LFS_POINTER):
                raise CheckpointError(f"{file} is a Git LFS pointer, no weights: git lfs pull")
            raise _damaged(file, f"its header claims {length} bytes of {size}")
        return length, stream.read(length), size


def _tensor(file: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    try:
        dtype = entry["dtype"]
        shape = tuple(entry["shape"])
        start, end = entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, start, end))
        known = dtype in DTYPE_BYTES
    except (KeyError, TypeError, ValueError):
        raise _damaged(file, f"its entry for {name!r} has no type, shape and place") from None
    if not whole or not known:
        raise _damaged(file, f"its entry for {name!r} has an impossible type, shape or place")
    num_bytes = DTYPE_BYTES[dtype] * math.prod(shape)
    if end - start != num_bytes:
        raise _damaged(file, f"{name!r} has {end - start} bytes, its shape needs {num_bytes}")
    return TensorInfo(dtype, shape, num_bytes, file, data_start + start)


def _check_layout(file: Path, tensors: Mapping[str, TensorInfo], start: int, size: int) -> None:
    """Tensors must fill the file without a gap or an overlap."""
    at = start
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].num_bytes)):
        if info.start != at:
            what = "overlaps another tensor" if info.start < at else "leaves a gap before it"
            raise _damaged(file, f"{name!r} {what}")
        at += info.num_bytes
    if at != size:
        raise _damaged(file, f"it has {size} bytes, its header describes {at}")


def _check_index(index: Path, tensors: Mapping[str, TensorInfo]) -> None:
    for name, file in read_weight_map(index).items():
        if not (index.parent / file).is_file():
            raise CheckpointError(f"{index.parent} is incomplete: {file} is missing")
        if name not in tensors:
            raise CheckpointError(f"{index.parent} is incomplete: {name!r} is in no file")


def _damaged(file: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{file} is damaged: {why}; copy or convert it again")


def _keys_in(value: object) -> Iterator[str]:
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield from value
            left += value.values()
        elif isinstance(value, list):
            left += value
