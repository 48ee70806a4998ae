"""A directory that appears under its name when it is whole, and not before.

Until then it is `NAME.partial` beside it: an interrupted run leaves its finished shards there, and
the same command goes on with them. What does *not* live here: what is written into it.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from modeling.checkpoint_files import CheckpointError, read_header, read_json
from modeling.checkpoints.model_files import small_files
from modeling.checkpoints.tensor_hash import TensorHash, checkpoint_hash
from modeling.checkpoints.tensor_source import TensorSource
from modeling.checkpoints.tensor_writer import (
    MAX_SHARD_BYTES,
    Output,
    Progress,
    Shard,
    plan_shards,
    write_index,
    write_shard,
)
from modeling.durable_files import sync_to_disk, unfinished_of, write_json

MANIFEST = "galen_manifest.json"
"""What a conversion was made of, beside its result."""
MANIFEST_FORMAT = "galen-conversion/1"
JOURNAL = "galen_journal.json"
_HASH = re.compile("[0-9a-f]{64}")
_LONGEST_LINE = 300
_SPARE_BYTES = 64 << 20  # tokenizer and configuration


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides a result: the same recipe may go on where it was stopped.

    Args:
        command: such as v1.
        sources: directories by their part in it, such as base and delta.
        remedy: what a user does about a number that does not fit its type; decides nothing.
    """

    command: str
    options: Mapping[str, Any]
    sources: Mapping[str, TensorSource]
    remedy: str = "a source is damaged: copy it again"

    @property
    def fingerprint(self) -> str:
        """Changes with the options, the weights' files and the small files beside them.

        Of weights name, size and time of change count, of small files the contents.
        """
        files = {
            role: [
                [_identity(file) for file in source.files],
                [_content(file, source.path) for file in small_files(source.path)],
            ]
            for role, source in self.sources.items()
        }
        text = json.dumps([self.command, dict(self.options), files, tool()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a result goes.

    Args:
        out: the directory that is made.
        max_shard_bytes: a file of weights is not larger, unless a single tensor is.
    """

    out: Path
    progress: Progress
    max_shard_bytes: int = MAX_SHARD_BYTES


def tool() -> str:
    """Return name and version of this program."""
    try:
        return f"galen {version('galen')}"
    except PackageNotFoundError:
        return "galen (from its source)"


def write_folder(
    to: Destination,
    recipe: Recipe,
    outputs: Sequence[Output],
    write_rest: Callable[[Path, dict[str, TensorHash]], None],
) -> None:
    """Write tensors and what belongs to them to `to.out`, all of it or nothing.

    Args:
        write_rest: puts the other files into the folder that it gets, with the tensors' hashes.

    Raises:
        CheckpointError: something has that name, the disk is full, another conversion's rest is in
            the way, or a tensor cannot be made.
    """
    out = to.out
    shards = plan_shards(outputs, to.max_shard_bytes)
    partial = partial_of(out)
    try:
        fingerprint = _fingerprint(recipe, shards)
        if _lacks_last_step(out, fingerprint):
            _drop_journal(out)
            return
        _refuse_anything(out)
        with _locked(partial):
            journal = _Journal(partial, fingerprint)
            _write_shards(partial, shards, journal, to, recipe.remedy)
            write_index(partial, shards)
            write_rest(partial, journal.hashes)
            _make_durable(partial)
            _refuse_anything(out)
            partial.rename(out)
            _drop_journal(out)
    except OSError as error:
        raise _in_words(error, out, partial) from error


def partial_of(out: Path) -> Path:
    """Return where a result stands until it is whole."""
    return out.parent / f"{out.name}.partial"


def refuse_existing(out: Path) -> None:
    """Raise CheckpointError where something has that name already.

    A folder that only lacks the last step passes: `write_folder` takes that step, or refuses it.
    """
    if not (out / JOURNAL).is_file():
        _refuse_anything(out)


def write_manifest(
    folder: Path,
    recipe: Recipe,
    source_hashes: Mapping[str, str],
    hashes: Mapping[str, TensorHash],
    more: Mapping[str, Any],
) -> None:
    """Write what a result was made of.

    Args:
        source_hashes: by part, as `checkpoint_hash` gives them.
        more: what else is worth keeping, such as the source's configuration.
    """
    tensors = {
        name: {"dtype": each.dtype, "shape": list(each.shape), "sha256": each.sha256}
        for name, each in sorted(hashes.items())
    }
    manifest = {
        "format": MANIFEST_FORMAT,
        "tool": tool(),
        "command": recipe.command,
        "options": dict(recipe.options),
        "sources": {
            role: {"name": _printable(source.path.resolve().name), "hash": source_hashes[role]}
            for role, source in recipe.sources.items()
        },
        **more,
        "result": {"hash": checkpoint_hash(hashes), "tensors": tensors},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")


def read_manifest(path: Path) -> dict[str, Any] | None:
    """Return a directory's manifest; None where it has none.

    Raises:
        CheckpointError: it is damaged, or of a format that is not known here.
    """
    file = path / MANIFEST
    if not file.is_file():
        return None
    manifest = read_json(file)
    if not isinstance(manifest, dict) or manifest.get("format") != MANIFEST_FORMAT:
        raise CheckpointError(
            f"{file} is no manifest of format {MANIFEST_FORMAT}: take it from its publisher again, "
            "or remove it"
        )
    if wrong := next(_wrong_in(manifest), None):
        raise CheckpointError(
            f"{file} is damaged ({wrong}): take it from its publisher again, or remove it"
        )
    return manifest


def _wrong_in(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the readers of a manifest would stumble over; strangers write them too."""
    for key in ("tool", "command", "template"):
        if key in manifest and not _is_line(manifest[key]):
            yield f"{key} is no short line"
    if missing := [key for key in ("tool", "command") if key not in manifest]:
        yield f"{missing[0]} is missing"
    sources = manifest.get("sources")
    if not isinstance(sources, dict) or not all(map(_is_source, sources.values())):
        yield "sources are no table of names and hashes"
    elif manifest.get("command") == "make-delta" and "base" not in sources:
        yield "sources has no base"
    result = manifest.get("result")
    if not isinstance(result, dict) or not _is_hash(result.get("hash")):
        yield "result has no hash"


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)


def _is_source(entry: object) -> bool:
    return isinstance(entry, dict) and _is_line(entry.get("name")) and _is_hash(entry.get("hash"))


def _is_line(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_LINE


def _is_hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _fingerprint(recipe: Recipe, shards: Sequence[Shard]) -> str:
    """Return what a journal has to say so that a conversion may go on."""
    plan = [[s.file, [[o.name, o.dtype, o.shape] for o in s.outputs]] for s in shards]
    return hashlib.sha256(json.dumps([recipe.fingerprint, plan]).encode()).hexdigest()


def _write_shards(
    partial: Path, shards: Sequence[Shard], journal: "_Journal", to: Destination, remedy: str
) -> None:
    """Write what is missing; what nobody planned is taken away before."""
    finished = {shard.file for shard in shards if journal.has(shard)}
    _keep_only(partial, {*finished, JOURNAL})
    _refuse_full_disk(to.out, sum(s.num_bytes for s in shards if s.file not in finished))
    for shard in shards:
        if shard.file in finished:
            to.progress.advance(shard.num_bytes, shard.outputs[-1].name)
        else:
            journal.note(shard, write_shard(partial, shard, to.progress, remedy))


def _keep_only(partial: Path, names: Collection[str]) -> None:
    for path in partial.iterdir():
        if path.name in names:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _refuse_anything(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise CheckpointError(f"{out} is there already: remove it, or choose another --out")


def _lacks_last_step(out: Path, fingerprint: str) -> bool:
    """Whether a folder is this conversion's, stopped after it got its name."""
    file = out / JOURNAL
    found = read_json(file) if file.is_file() else None
    return isinstance(found, dict) and found.get("fingerprint") == fingerprint


def _drop_journal(out: Path) -> None:
    """Take the last step; its place on the disk is certain before and after."""
    sync_to_disk(out.parent)
    (out / JOURNAL).unlink()
    sync_to_disk(out)


class _Journal:
    """Which shards of a partial folder are finished, and the hashes of their tensors."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder
        self._file = folder / JOURNAL
        self._entries: dict[str, Any] = {"fingerprint": fingerprint, "shards": {}}
        if self._file.is_file():
            found = read_json(self._file)
            if not isinstance(found, dict) or found.get("fingerprint") != fingerprint:
                raise CheckpointError(
                    f"{folder} is left of a conversion with other sources or options "
                    "(--max-shard-size too): give the same ones, remove it, or choose another --out"
                )
            self._entries = found
        elif any(file.name != unfinished_of(self._file).name for file in folder.iterdir()):
            raise CheckpointError(
                f"{folder} is in the way and no conversion left it: move it away, or choose "
                "another --out"
            )
        else:
            self._save()

    @property
    def hashes(self) -> dict[str, TensorHash]:
        """Of all tensors in finished shards."""
        return {
            name: TensorHash(dtype, tuple(shape), sha256)
            for shard in self._entries["shards"].values()
            for name, (dtype, shape, sha256) in shard.items()
        }

    def has(self, shard: Shard) -> bool:
        """Whether a shard stands whole in the folder, with all types and shapes."""
        planned = {output.name: (output.dtype, output.shape) for output in shard.outputs}
        noted = self._entries["shards"].get(shard.file, {})
        if {name: (dtype, tuple(shape)) for name, (dtype, shape, _) in noted.items()} != planned:
            return False
        try:
            header = read_header(self._folder / shard.file)
            return {name: (info.dtype, info.shape) for name, info in header.items()} == planned
        except CheckpointError:  # what was noted was lost with the machine's power: once more
            return False

    def note(self, shard: Shard, hashes: Mapping[str, TensorHash]) -> None:
        """Keep that a shard is finished."""
        self._entries["shards"][shard.file] = {
            name: (each.dtype, each.shape, each.sha256) for name, each in hashes.items()
        }
        self._save()

    def _save(self) -> None:
        write_json(self._file, self._entries)


@contextlib.contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """Hold the partial folder; two conversions at once would write into one another."""
    partial.mkdir(parents=True, exist_ok=True)
    handle = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CheckpointError(
            f"{partial} is being written by another conversion: wait, or choose another --out"
        ) from None
    finally:
        os.close(handle)


def _refuse_full_disk(out: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(out.parent).free
    if free < num_bytes + _SPARE_BYTES:
        raise CheckpointError(
            f"{out.parent} has {free / 1e9:.1f} GB free, {out.name} needs {num_bytes / 1e9:.1f} GB "
            "more: free some, or choose another --out"
        )


def _in_words(error: OSError, out: Path, partial: Path) -> CheckpointError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return CheckpointError(
            f"no room was left on the disk for {out} ({error.strerror}): free some and run the "
            f"same command again, it goes on; or remove {partial}"
        )
    return CheckpointError(f"{out} could not be written ({error.strerror}: {error.filename})")


def _identity(file: Path) -> tuple[str, int, int]:
    status = file.stat()
    return file.name, status.st_size, status.st_mtime_ns


def _content(file: Path, folder: Path) -> tuple[str, str]:
    with file.open("rb") as stream:
        return str(file.relative_to(folder)), hashlib.file_digest(stream, "sha256").hexdigest()


def _make_durable(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o755 if path.is_dir() else 0o644)
        sync_to_disk(path)
