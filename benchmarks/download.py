"""How fast `galen data download` is, how flat its memory stays, and how the seed's way compares.

    python -m benchmarks.download

The server and what is measured are processes of their own. The seed's way is that of LLaVA-Med's
script: an archive for each figure, one after the other, unpacked whole. What does *not* live here:
the server (`download_server.py`).
"""

import argparse
import asyncio
import contextlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil

from benchmarks.download_server import FIGURES, member_of
from benchmarks.page_sections import replace_section, table
from tests.support.program import ROOT, free_port

AT_ONCE = 16
_PAGE = ROOT / "docs" / "benchmarks.md"
_SAMPLE_EVERY_S = 0.1
_STRETCH = 50_000


@contextlib.contextmanager
def serving(*options: str) -> Iterator[str]:
    """Run the server; gives its URL."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.download_server", "--port", str(port), *options]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        for _ in range(200):
            with contextlib.suppress(httpx.ConnectError):
                httpx.get(f"http://127.0.0.1:{port}/", timeout=5)
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def write_list(path: Path, url: str, kind: str, articles: int, figures: int) -> Path:
    """Write a list of so many figures of each article."""
    with path.open("w") as file:
        for number in range(articles):
            for figure in range(figures):
                line = {
                    "pair_id": f"{number}_{figure}",
                    "pmc_tar_url": f"{url}/{kind}/{number}.tar.gz",
                    "image_file_path": member_of(0 if kind == "big" else number, figure),
                }
                file.write(json.dumps(line) + "\n")
    return path


def download(listed: Path, out: Path) -> tuple[float, list[tuple[float, float]]]:
    """Run the product; returns seconds and samples of (seconds, MB of resident memory)."""
    command = [sys.executable, "-m", "datagen.download.command", "--list", str(listed)]
    command += ["--out", str(out), "--concurrency", str(AT_ONCE), "--per-host", str(AT_ONCE)]
    began_s = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    watched = psutil.Process(process.pid)
    samples: list[tuple[float, float]] = []
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            samples.append((time.monotonic() - began_s, watched.memory_info().rss / 1e6))
        time.sleep(_SAMPLE_EVERY_S)
    assert process.returncode == 0, f"exit code {process.returncode}"
    return time.monotonic() - began_s, samples


def start_seconds(folder: Path) -> float:
    """Return how long the program takes with nothing to download."""
    (folder / "none").write_text("{}\n")
    (folder / "empty").mkdir()
    command = [sys.executable, "-m", "datagen.download.command", "--list", str(folder / "none")]
    began_s = time.monotonic()
    command += ["--out", str(folder / "empty")]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    return time.monotonic() - began_s


async def _stream_all(url: str, articles: int) -> float:
    """Fetch the same bytes with plain httpx, as many at once; returns seconds."""
    numbers = iter(range(articles))
    async with httpx.AsyncClient(timeout=60) as client:

        async def work() -> None:
            for number in numbers:
                async with client.stream("GET", f"{url}/big/{number}.tar.gz") as response:
                    async for _ in response.aiter_raw():
                        pass

        began_s = time.monotonic()
        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        return time.monotonic() - began_s


def bandwidth(folder: Path, mb_per_s: float | None, articles: int) -> list[str]:
    """Return a row: MB/s of plain httpx and of the product, and their ratio."""
    options = [] if mb_per_s is None else ["--mb-per-s", str(mb_per_s)]
    name = "none" if mb_per_s is None else f"{mb_per_s:g}"
    with serving(*options) as url:
        size_mb = len(httpx.get(f"{url}/big/0.tar.gz", timeout=60).content) * articles / 1e6
        listed = write_list(folder / f"big-{name}", url, "big", articles, 1)
        plain_s = asyncio.run(_stream_all(url, articles))
        whole_s, _ = download(listed, folder / f"out-{name}")
    without_start_s = whole_s - start_seconds(Path(tempfile.mkdtemp(dir=folder)))
    plain, whole, running = (size_mb / each for each in (plain_s, whole_s, without_start_s))
    cells = f"{plain:.0f}", f"{whole:.0f}", f"{running:.0f}"
    return [name, str(articles), *cells, f"{running / plain:.2f}", f"{whole / plain:.2f}"]


def memory(folder: Path, lines: int) -> list[list[str]]:
    """Return a row for each stretch of a list: memory at its end, and its slope there.

    A slope over the whole would call the filling of malloc's arenas a leak.
    """
    with serving() as url:
        listed = write_list(folder / "small", url, "small", lines // FIGURES, FIGURES)
        seconds, samples = download(listed, folder / "out-small")
    times, sizes = np.array(samples).T
    done = times / seconds * lines
    rows: list[list[str]] = []
    for first in range(0, lines, _STRETCH):
        here = (done >= first) & (done < first + _STRETCH)
        slope = float(np.polyfit(done[here], sizes[here], 1)[0]) * 100_000
        end = np.median(sizes[here][-10:])
        upper = min(first + _STRETCH, lines)
        cells = f"{end:.1f}", f"{sizes[here].max():.1f}", f"{slope:+.2f}"
        rows.append([f"{first:,} to {upper:,}", *cells])
    return rows


def seeds_way(listed: Path, out: Path) -> float:
    """Fetch as LLaVA-Med's script does: once for each line, in sequence; returns seconds."""
    began_s = time.monotonic()
    for text in listed.read_text().splitlines():
        line = json.loads(text)
        raw = httpx.get(line["pmc_tar_url"], timeout=60).content
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            archive.extractall(out / "pmc", filter="data")
        content = (out / "pmc" / line["image_file_path"]).read_bytes()
        (out / f"{line['pair_id']}.jpg").write_bytes(content)
    return time.monotonic() - began_s


def against_the_seed(folder: Path, articles: int) -> list[str]:
    """Return a row: both ways at a host 100 ms away."""
    with serving("--latency-ms", "100") as url:
        listed = write_list(folder / "far", url, "small", articles, FIGURES)
        (folder / "seed").mkdir()
        seed_s = seeds_way(listed, folder / "seed")
        ours_s, _ = download(listed, folder / "out-far")
    return [
        f"{articles * FIGURES} figures of {articles} articles", f"{seed_s:.1f}", f"{ours_s:.1f}",
        f"{seed_s / ours_s:.1f}",
    ]  # fmt: skip


def speed_text(folder: Path) -> str:
    """Measure how fast it is; returns the section."""
    rows = [bandwidth(folder, rate, articles) for rate, articles in [(50, 150), (None, 300)]]
    seed = against_the_seed(folder, 60)
    return "\n\n".join(
        [
            "## `galen data download`",
            "`python -m benchmarks.download --write`; the server is a process of its own on the "
            f"same two cores, {AT_ONCE} requests at once. *plain* is httpx that throws the same "
            "bytes away; *running* leaves out the start of the program. The wanted figure comes "
            "last in an archive of 4 MB, so that every byte counts.",
            table(
                ["the line's limit, MB/s", "archives", "plain MB/s", "ours MB/s",
                 "running MB/s", "running / plain", "ours / plain"],
                rows,
            ),
            "The seed's way (an archive for each figure, one after the other, unpacked whole) at "
            "a host 100 ms away:",
            table(["list", "seed's way s", "ours s", "times as fast"], [seed]),
        ]
    )  # fmt: skip


def memory_text(folder: Path, lines: int) -> str:
    """Measure how flat memory is; returns the section."""
    return "\n\n".join(
        [
            "### Memory of `galen data download`",
            f"`python -m benchmarks.download --part memory --lines {lines} --write`: resident "
            "memory over one long list of small archives, four figures each; in each stretch a "
            "straight line is fitted, so that the start and a real slope are told apart.",
            table(
                ["lines", "MB at the end", "MB at most", "slope, MB per 100,000 lines"],
                memory(folder, lines),
            ),
        ]
    )


def main() -> None:
    """Measure, print the sections, and write them into the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true", help="Into docs/benchmarks.md.")
    parser.add_argument("--part", choices=["speed", "memory"], help="Default: both.")
    parser.add_argument("--lines", type=int, default=300_000, help="Of the measurement of memory.")
    options = parser.parse_args()
    sections: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        if options.part != "memory":
            sections["download"] = speed_text(Path(name))
        if options.part != "speed":
            sections["download-memory"] = memory_text(Path(name), options.lines)
    for section, text in sections.items():
        print(text)
        if options.write:
            replace_section(_PAGE, section, text)


if __name__ == "__main__":
    main()
