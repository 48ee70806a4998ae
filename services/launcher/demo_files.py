"""The demo's checkpoint, made once and kept in the user's cache, and its picture, drawn each time.

A checkpoint is trained in a child process (`modeling/demo.py`): this one never loads torch. What
lies in the cache is complete: it gets its name only when it is. Two launchers at once make it once.
"""

import asyncio
import fcntl
import hashlib
import importlib.util
import itertools
import os
import shutil
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from modeling.demo_phantoms import DESCRIBE, draw_phantom
from services.launcher.children import Family
from services.launcher.terminal import CommandError, Terminal

DEMO_MODEL_ID = "galen-demo"
DEMO_QUESTION = DESCRIBE[0]
ENGINE_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors")

_MAKER = "modeling.demo"
_MAKER_SOURCES = ("modeling.demo", "modeling.demo_phantoms", "modeling.tiny")
_MAKER_NAME = "demo"
_PHANTOM_SEED = 7
_LOCK_POLL_S = 0.2
_SAY_AGAIN_S = 20


def check_packages(names: Sequence[str] = ENGINE_PACKAGES) -> None:
    """Raise CommandError where a package that the transformers engine needs is not installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(
            f"the transformers engine needs {', '.join(missing)}: pip install 'galen[worker]' "
            "(or try the platform without a model: --engine fake)"
        )


def draw_demo_image(folder: Path) -> tuple[Path, str]:
    """Draw a picture into `folder`; returns its path and the right answer to DEMO_QUESTION."""
    phantom, image = draw_phantom(np.random.default_rng(_PHANTOM_SEED))
    path = folder / "phantom.png"
    image.save(path)
    return path, phantom.caption


async def demo_checkpoint(
    cache_home: Path, family: Family, terminal: Terminal, environment: Mapping[str, str]
) -> Path:
    """Return the checkpoint's folder under `cache_home`, and make it where it is missing.

    Raises:
        CommandError: it cannot be made.
    """
    cache = cache_home / "galen"
    checkpoint = cache / f"demo-{_version()}"
    if checkpoint.is_dir():
        return checkpoint
    try:
        cache.mkdir(parents=True, exist_ok=True)
        async with _locked(cache / "demo.lock", terminal):
            if not checkpoint.is_dir():
                await _make(checkpoint, family, terminal, environment)
    except OSError as error:
        raise CommandError(
            f"the demo checkpoint cannot be kept in {cache}: {error.strerror}; "
            "choose another place with --cache-home"
        ) from error
    return checkpoint


def _version() -> str:
    """Return a hash of the source that makes the checkpoint: a change of it is never overlooked."""
    digest = hashlib.sha256()
    for module in _MAKER_SOURCES:
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin is not None:
            digest.update(Path(spec.origin).read_bytes())
    return digest.hexdigest()[:12]


async def _make(
    checkpoint: Path, family: Family, terminal: Terminal, environment: Mapping[str, str]
) -> None:
    partial = checkpoint.with_name(f"{checkpoint.name}.partial")
    for left_over in checkpoint.parent.glob(f"*{partial.name}*"):  # of a run that was killed
        shutil.rmtree(left_over)
    terminal.progress("making the demo checkpoint (once, about a minute)")
    still_there = asyncio.create_task(_count_seconds(terminal))
    try:
        command = [sys.executable, "-m", _MAKER, str(partial)]
        await family.run_quietly(_MAKER_NAME, command, environment)
        partial.rename(checkpoint)
    finally:
        still_there.cancel()
        shutil.rmtree(partial, ignore_errors=True)


async def _count_seconds(terminal: Terminal) -> None:
    for passed_s in itertools.count(_SAY_AGAIN_S, _SAY_AGAIN_S):
        await asyncio.sleep(_SAY_AGAIN_S)
        terminal.progress(f"still making it ({passed_s} s)")


@asynccontextmanager
async def _locked(path: Path, terminal: Terminal) -> AsyncGenerator[None, None]:
    """Hold a lock that other launchers wait for; the kernel drops it with its owner."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        is_told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not is_told:
                    terminal.progress("another galen makes the demo checkpoint; waiting for it")
                is_told = True
                await asyncio.sleep(_LOCK_POLL_S)
            else:
                break
        yield
    finally:
        os.close(descriptor)
