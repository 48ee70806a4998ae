"""The C programs, built once, and servers for them to talk to."""

import shutil
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.native_build import build_programs
from tests.support.program import free_port


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.fail("the load harness needs a C compiler: sudo apt-get install gcc libc6-dev")
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


@contextmanager
def serve_reply(reply: bytes) -> Iterator[int]:
    """Answer every request with `reply`, verbatim, and close; gives the port."""

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            length = 0
            while (line := self.rfile.readline()).strip():
                name, _, value = line.partition(b":")
                if name == b"content-length":
                    length = int(value)
            if length and len(self.rfile.read(length)) == length:
                self.wfile.write(reply)

    with socketserver.TCPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def sse_reply(tokens: list[int], *, is_done: bool = True) -> bytes:
    """A streamed answer of these token numbers, without chunked coding."""
    events = [f'data: {{"choices":[{{"delta":{{"content":"zq{n:04d} "}}}}]}}\n\n' for n in tokens]
    text = "".join(events) + ("data: [DONE]\n\n" if is_done else "")
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + text.encode()


def _refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
