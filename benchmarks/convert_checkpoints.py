"""Measures time and memory of `galen convert` on generated checkpoints of LLaVA-Med v1.0's shape.

Random numbers in pickled shards, as published: a LLaMA base and a delta are added, the sum is
converted. Beside it, in the same run, what the original tool does with its memory: load both whole
models, add, save. Peak memory is the process's anonymous memory, looked at every 5 ms: mapped files
are not counted, the system takes them back.

Run: python -m benchmarks.convert_checkpoints --size 1b
"""

import gc
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from safetensors.torch import save_file

from benchmarks.original_checkpoints import ADDED, ROWS, SHAPES, Shape, write_clip, write_llama
from benchmarks.ours import REPOSITORY
from benchmarks.page_sections import replace_section, table

PAGE = REPOSITORY / "docs" / "benchmarks.md"
SPARE_BYTES = 512_000_000
POLL_S = 0.005

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Row:
    what: str
    seconds: float
    read_write_bytes: int
    peak_bytes: int


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    *,
    size: Annotated[Literal["tiny", "1b", "7b"], typer.Option()] = "1b",
    peer: Annotated[bool, typer.Option(help="Also load whole models, as the old tool did.")] = True,
    folder: Annotated[Path | None, typer.Option(help="Where there is room: 42 GB for 7b.")] = None,
    write_page: Annotated[
        bool, typer.Option(help="Put the figures into docs/benchmarks.md.")
    ] = False,
) -> None:
    """Generate, convert, print a section of Markdown; fails where memory is above its bound."""
    if context.invoked_subcommand is not None:
        return
    shape = SHAPES[size]
    work = Path(tempfile.mkdtemp(prefix="convert-", dir=folder))
    try:
        rows = measure(work, shape, has_peer=peer)
    finally:
        shutil.rmtree(work)
    largest = (ROWS + len(ADDED)) * shape.hidden * 2
    bound = 2 * largest + SPARE_BYTES
    lines = table(
        ["what", "s", "GB/s read and written", "peak anonymous memory, MB", "bound, MB"],
        [
            [
                row.what,
                f"{row.seconds:.1f}",
                f"{row.read_write_bytes / row.seconds / 1e9:.2f}",
                f"{row.peak_bytes / 1e6:.0f}",
                "" if "whole" in row.what else f"{bound / 1e6:.0f}",
            ]
            for row in rows
        ],
    )
    about = "Beside what the original tool does with its memory, in the same run.\n" if peer else ""
    command = f"`python -m benchmarks.convert_checkpoints --size {size}`"
    text = f"### Converting a checkpoint ({size})\n\n{about}{command}\n\n{lines}\n"
    print(text)
    if write_page:
        replace_section(PAGE, f"converting-{size}", text)
    if any(row.peak_bytes >= bound for row in rows if "whole" not in row.what):
        raise typer.Exit(1)


def measure(work: Path, shape: Shape, *, has_peer: bool) -> list[Row]:
    """Return the rows of the table; sources are removed when they are no longer needed."""
    base, delta, tower = work / "base", work / "delta", work / "clip"
    write_llama(base, shape, ROWS, seed=1)
    write_llama(delta, shape, ROWS + len(ADDED), seed=2)
    write_clip(tower)
    size = sum(file.stat().st_size for file in base.glob("*.bin"))
    rows: list[Row] = []
    if has_peer:
        code = [
            sys.executable,
            "-m",
            "benchmarks.convert_checkpoints",
            "whole",
            str(base),
            str(delta),
        ]
        rows.append(
            run_watched("whole models in memory: add, save", [*code, str(work / "whole")], 3 * size)
        )
        shutil.rmtree(work / "whole")
    tool = [sys.executable, "-m", "modeling.checkpoints.convert_command"]
    merged, hf = work / "merged", work / "hf"
    options = ["--base", str(base), "--delta", str(delta), "--out", str(merged)]
    rows.append(
        run_watched("galen convert apply-delta", [*tool, "apply-delta", *options], 3 * size)
    )
    shutil.rmtree(base)
    shutil.rmtree(delta)
    options = [str(merged), "--tower", str(tower), "--out", str(hf)]
    rows.append(run_watched("galen convert v1", [*tool, "v1", *options], 2 * size))
    return rows


@app.command(hidden=True)
def whole(base: Path, delta: Path, out: Path) -> None:
    """Do as the old tool: everything in memory, then save."""
    ours: dict[str, torch.Tensor] = {}
    for file in sorted(base.glob("*.bin")):
        ours |= torch.load(file, weights_only=True)
    theirs: dict[str, torch.Tensor] = {}
    for file in sorted(delta.glob("*.bin")):
        theirs |= torch.load(file, weights_only=True)
    for name, tensor in theirs.items():
        if name in ours:
            block = tensor[tuple(slice(0, size) for size in ours[name].shape)]
            block += ours[name]
    del ours
    gc.collect()
    out.mkdir()
    save_file(theirs, out / "model.safetensors", metadata={"format": "pt"})


def run_watched(what: str, command: list[str], num_bytes: int) -> Row:
    """Run a command to its end; return how long it took and its peak of anonymous memory."""
    started_s = time.monotonic()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    status, peak = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        match = re.search(r"RssAnon:\s+(\d+) kB", status.read_text()) if status.exists() else None
        peak = max(peak, int(match[1]) * 1024 if match else 0)
        time.sleep(POLL_S)
    if process.returncode:
        raise typer.Exit(process.returncode)
    return Row(what, time.monotonic() - started_s, num_bytes, peak)


if __name__ == "__main__":
    app()
