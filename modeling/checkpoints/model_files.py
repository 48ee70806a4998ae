"""The small files beside a checkpoint's weights: configuration and tokenizer, as they are."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling.checkpoint_files import CheckpointError, read_json

CONFIG = "config.json"
_KEPT = (
    CONFIG,
    "added_tokens.json",
    "generation_config.json",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
)
_CODE = "auto_map"
_CODE_IN = "config.json"  # at a name's end
ORIGINAL = "original"
"""Folder in a converted checkpoint that keeps the small files it was made from."""
_SMALL = frozenset({".json", ".model"})
_MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class CopiedFiles:
    """Contents of files that are kept.

    Args:
        config: config.json, parsed.
        blobs: by name, config.json too.
        notes: what was left out.
    """

    config: dict[str, Any]
    blobs: dict[str, bytes]
    notes: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """Put them into a folder."""
        for name, blob in self.blobs.items():
            (folder / name).write_bytes(blob)


def read_copied_files(path: Path) -> CopiedFiles:
    """Read a checkpoint's small files, without the names of code in them.

    No engine loads a checkpoint whose configuration names code (`checkpoint_files.refuse_code`).

    Raises:
        CheckpointError: config.json is missing, or a file is damaged.
    """
    config = read_config(path)
    blobs = {name: _blob(path / name) for name in _KEPT if (path / name).is_file()}
    notes: list[str] = []
    for name in [name for name in blobs if name.endswith(_CODE_IN)]:
        content = read_json(path / name)
        try:
            without = _without_code(content)
        except RecursionError as error:
            raise CheckpointError(
                f"{path / name} is nested too deeply: no configuration"
            ) from error
        if without != content:
            blobs[name] = json.dumps(without, indent=2).encode() + b"\n"
            notes.append(f"{name} names code ({_CODE}), which was left out")
    return CopiedFiles(_without_code(config), blobs, tuple(notes))


def small_files(path: Path) -> list[Path]:
    """Return what a conversion may read beside the weights."""
    found = (*path.glob("*"), *(path / ORIGINAL).glob("*"))
    return sorted(file for file in found if file.suffix in _SMALL and file.is_file())


def read_config(path: Path) -> dict[str, Any]:
    """Return a directory's config.json; raises CheckpointError where there is none."""
    file = path / CONFIG
    if not file.is_file():
        raise CheckpointError(
            f"{path} has no {CONFIG}: give a checkpoint in Hugging Face layout (LLaMA's own files "
            "are converted by transformers' convert_llama_weights_to_hf.py first)"
        )
    config = read_json(file)
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object")
    return config


def _without_code(value: Any) -> Any:  # whatever JSON holds
    if isinstance(value, dict):
        return {key: _without_code(item) for key, item in value.items() if key != _CODE}
    return [_without_code(item) for item in value] if isinstance(value, list) else value


def _blob(file: Path) -> bytes:
    if file.stat().st_size > _MOST_BYTES:
        raise CheckpointError(f"{file} is larger than {_MOST_BYTES >> 20} MiB: no such file")
    return file.read_bytes()
