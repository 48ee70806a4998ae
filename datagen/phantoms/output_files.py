"""Lists in JSON, written record by record, and a folder that gets its name when it is whole.

What does *not* live here: what is written (`writing.py`).
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path
from types import TracebackType

from datagen.phantoms.errors import PhantomError

GENERATOR = "galen-phantoms"
MANIFEST = "manifest.json"


class RecordFile:
    """Writes records as they come: memory does not grow. Use it as a context manager.

    A file `.jsonl` has one in each line; any other is a list in JSON, one record in each line, too.
    """

    def __init__(self, file: Path) -> None:
        self._is_lines = file.suffix == ".jsonl"
        self._stream = file.open("wb")
        self._hash = hashlib.sha256()
        self.num_records = 0

    @property
    def sha256(self) -> str:
        """Of the bytes so far; of the file, when it is closed."""
        return self._hash.hexdigest()

    def __enter__(self) -> "RecordFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._is_lines:
            self._put("\n]\n" if self.num_records else "[]\n")
        self._stream.close()

    def write(self, record: Mapping[str, object]) -> None:
        """Add a record."""
        text = json.dumps(record, ensure_ascii=False)
        if self._is_lines:
            self._put(f"{text}\n")
        else:
            self._put(f",\n{text}" if self.num_records else f"[\n{text}")
        self.num_records += 1

    def _put(self, text: str) -> None:
        raw = text.encode()
        self._hash.update(raw)
        self._stream.write(raw)


@contextlib.contextmanager
def whole_folder(out: Path, *, force: bool) -> Generator[Path]:
    """Give a folder `OUT.partial` to write into, and rename it to `out` when all went well.

    If not, it is removed. What an interrupted run left there is replaced.

    Args:
        force: replace `out`, if this generator made it.

    Raises:
        PhantomError: `out` is there, or something else is where it is written.
    """
    partial = out.parent / f"{out.name}.partial"
    if _is_there(out) and not force:
        raise PhantomError(f"{out} is there already: choose another --out, or replace it (--force)")
    for folder in (out, partial):
        if _is_there(folder) and not _is_own(folder):
            raise PhantomError(
                f"{folder} was not made by this command and is not replaced: move it away, or "
                "choose another --out"
            )
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        write_manifest(partial, {"complete": False})
        yield partial
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_manifest(folder: Path, values: Mapping[str, object]) -> None:
    """Say in a folder what made it, and how."""
    text = json.dumps({"generator": GENERATOR, **values}, indent=2)
    (folder / MANIFEST).write_text(f"{text}\n", "utf-8")


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _is_own(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    try:
        manifest: object = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and ("generator", GENERATOR) in manifest.items()
