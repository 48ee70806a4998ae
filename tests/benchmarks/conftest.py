"""The C programs, built once, and servers for them to talk to."""

import asyncio
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from benchmarks.native_build import build_programs

ServeReply = Callable[[bytes], AbstractContextManager[int]]


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("bin")
    build_programs(folder)
    return folder


@pytest.fixture
def mock_engine_port(programs: Path) -> Iterator[int]:
    port = free_port()
    engine = subprocess.Popen([programs / "mock_engine", "--port", str(port)])
    try:
        while _refuses(port):
            assert engine.poll() is None
        yield port
    finally:
        engine.kill()
        engine.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serve_reply(reply: bytes) -> Iterator[int]:
    """Answer every request with `reply`, verbatim, and close; gives the port."""
    started = threading.Event()
    loop = asyncio.new_event_loop()
    ports: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        writer.write(reply)
        await writer.drain()
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
        started.set()

    def run() -> None:
        loop.run_until_complete(serve())
        loop.run_forever()

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(10)
    try:
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def sse_reply(tokens: list[int], *, is_done: bool = True) -> bytes:
    """A streamed answer of these token numbers, without chunked coding."""
    events = [f'data: {{"choices":[{{"delta":{{"content":"zq{n:04d} "}}}}]}}\n\n' for n in tokens]
    text = "".join(events) + ("data: [DONE]\n\n" if is_done else "")
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + text.encode()


def _refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
