"""The host of `benchmarks.download`, in a process of its own: archives out of memory, paced.

    python -m benchmarks.download_server --port 18080 --latency-ms 100 --mb-per-s 50

`/big/N.tar.gz` is an article of some megabytes whose one wanted figure comes last (every N is the
same archive); `/small/N.tar.gz` has four small figures. What does *not* live here: measuring.
"""

import argparse
import asyncio
import functools
import gzip
import io
import random
import tarfile
import time
from collections.abc import AsyncIterator

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

BIG_BYTES = 4_000_000
"""About a mean article: 3.6 TB are said for 721,154 lines (LLaVA-Med's issue 79)."""
FIGURES = 4
_PIECE_BYTES = 1 << 16


def member_of(number: int, figure: int) -> str:
    """Return a wanted member's name."""
    return f"PMC{number}/f{figure}.jpg"


@functools.cache
def _picture(width: int) -> bytes:
    size = width, width * 3 // 4
    noise = Image.frombytes("L", size, random.Random(1).randbytes(size[0] * size[1]))
    content = io.BytesIO()
    noise.convert("RGB").save(content, "JPEG", quality=60)
    return content.getvalue()


@functools.cache
def _filler() -> bytes:
    return random.Random(2).randbytes(BIG_BYTES)  # PDF and JPEG hardly compress


def archive(number: int, *, is_big: bool) -> bytes:
    """Return an article's archive."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        members = {member_of(number, n): _picture(48) for n in range(FIGURES)}
        if is_big:
            members = {f"PMC{number}/a.pdf": _filler(), member_of(number, 0): _picture(400)}
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return gzip.compress(content.getvalue(), 1)


class Pace:
    """One line for all connections: so many bytes a second, as a network card's."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_s = 0.0

    async def wait(self, num_bytes: int) -> None:
        """Wait until the line has carried so many bytes."""
        now_s = time.monotonic()
        self._free_s = max(self._free_s, now_s) + num_bytes / self._bytes_per_s
        if self._free_s - now_s > 0.002:
            await asyncio.sleep(self._free_s - now_s)


async def _paced(raw: bytes, pace: Pace) -> AsyncIterator[bytes]:
    for start in range(0, len(raw), _PIECE_BYTES):
        piece = raw[start : start + _PIECE_BYTES]
        await pace.wait(len(piece))
        yield piece


def create_app(latency_s: float, bytes_per_s: float | None) -> Starlette:
    """Return the host."""
    big = archive(0, is_big=True)
    pace = None if bytes_per_s is None else Pace(bytes_per_s)

    async def send(request: Request) -> Response:
        if latency_s:
            await asyncio.sleep(latency_s)
        number = int(request.path_params["number"])
        is_big = request.path_params["kind"] == "big"
        raw = big if is_big else archive(number, is_big=False)
        if pace is None:
            return Response(raw)
        return StreamingResponse(_paced(raw, pace), headers={"Content-Length": str(len(raw))})

    return Starlette(routes=[Route("/{kind}/{number:int}.tar.gz", send)])


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency-ms", type=float, default=0)
    parser.add_argument("--mb-per-s", type=float)
    options = parser.parse_args()
    rate = None if options.mb_per_s is None else options.mb_per_s * 1e6
    app = create_app(options.latency_ms / 1000, rate)
    uvicorn.run(app, port=options.port, log_level="error", access_log=False)


if __name__ == "__main__":
    main()
