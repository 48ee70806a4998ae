"""The fetcher against real sockets: what it dials, follows, takes, and how soon it gives up."""

import asyncio
import ipaddress
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from services.gateway.media import fetch
from services.gateway.media.fetch import FetchPolicy, ImageFetcher
from services.gateway.url_policy import read_rule
from services.protocol.errors import ErrorCode, RequestError

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]
Answer = Callable[[asyncio.StreamWriter, str], Awaitable[None]]


class Server:
    """Answers on 127.0.0.1 and remembers what was asked."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[str] = []
        self.num_connections = 0
        self.port = 0
        self._answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head)
            await self._answer(writer, head.split(" ")[1])
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def served(answer: Answer) -> AsyncGenerator[Server]:
    server = Server(answer)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


def replying(body: bytes, head: str = "", status: str = "200 OK") -> Answer:
    async def answer(writer: asyncio.StreamWriter, path: str) -> None:
        writer.write(f"HTTP/1.1 {status}\r\nconnection: close\r\n{head}\r\n".encode() + body)
        await writer.drain()

    return answer


def fetcher_of(
    *rules: str,
    most: int = 1000,
    networks: Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network] = LOOPBACK,
    addresses: Sequence[Sequence[str]] = (("127.0.0.1",),),
) -> tuple[ImageFetcher, list[str]]:
    """Return a fetcher whose names resolve to `addresses` in turn, and the names it asked for."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return addresses[min(len(asked), len(addresses)) - 1]

    policy = FetchPolicy([read_rule(rule) for rule in rules], networks, most)
    return ImageFetcher(policy, resolve=resolve), asked


async def code_of(fetcher: ImageFetcher, url: str) -> ErrorCode:
    with pytest.raises(RequestError) as caught:
        await fetcher.fetch(url, "here")
    assert caught.value.param == "here"
    return caught.value.code


async def test_fetches_what_is_there_and_says_little_of_itself() -> None:
    async with served(replying(b"pixels")) as server:
        fetcher, _ = fetcher_of(f"http://images.test:{server.port}")
        url = f"http://images.test:{server.port}/a.png?b=c"
        assert await fetcher.fetch(url, "here") == b"pixels"
        await fetcher.close()
    head = server.requests[0].lower()
    assert head.startswith("get /a.png?b=c http/1.1\r\n")
    assert f"host: images.test:{server.port}\r\n" in head
    assert "accept-encoding: identity\r\n" in head
    assert not any(name in head for name in ("cookie", "authorization", "referer"))


async def test_name_that_leads_to_this_machine_is_not_dialled() -> None:
    async with served(replying(b"secret")) as server:
        fetcher, asked = fetcher_of(f"http://images.test:{server.port}", networks=())
        url = f"http://images.test:{server.port}/"
        assert await code_of(fetcher, url) == ErrorCode.URL_NOT_ALLOWED
    assert (asked, server.num_connections) == (["images.test"], 0)


async def test_one_forbidden_address_of_several_forbids_all() -> None:
    fetcher, _ = fetcher_of("images.test", networks=(), addresses=[("1.1.1.1", "10.0.0.1")])
    assert await code_of(fetcher, "https://images.test/") == ErrorCode.URL_NOT_ALLOWED


async def test_name_is_resolved_once_and_what_was_checked_is_dialled() -> None:
    """A resolver that answers otherwise the second time is not asked a second time."""
    async with served(replying(b"pixels")) as server:
        fetcher, asked = fetcher_of(
            f"http://images.test:{server.port}", addresses=[("127.0.0.1",), ("169.254.169.254",)]
        )
        assert await fetcher.fetch(f"http://images.test:{server.port}/", "here") == b"pixels"
        assert asked == ["images.test"]
        # the next fetch resolves anew, and checks anew
        url = f"http://images.test:{server.port}/"
        assert await code_of(fetcher, url) == ErrorCode.URL_NOT_ALLOWED


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/secret", "http://169.254.169.254/latest", "http://localhost:{port}/",
        "https://images.test:{port}/", "http://images.test:22/", "file:///etc/passwd",
        "//169.254.169.254/", "http://images.test:{port}\\@127.0.0.1/", "gopher://images.test/",
    ],
)  # fmt: skip
async def test_redirect_to_elsewhere_is_refused(location: str) -> None:
    async def answer(writer: asyncio.StreamWriter, path: str) -> None:
        assert path == "/"
        head = f"location: {location.format(port=server.port)}\r\n"
        await replying(b"", head, "302 Found")(writer, path)

    async with served(answer) as server:
        fetcher, _ = fetcher_of(f"http://images.test:{server.port}")
        url = f"http://images.test:{server.port}/"
        assert await code_of(fetcher, url) == ErrorCode.URL_NOT_ALLOWED
    assert server.num_connections == 1


@pytest.mark.parametrize(
    ("location", "path"), [("2.png", "/a/2.png"), ("?b=1", "/a/1.png?b=1"), ("../x", "/x")]
)
async def test_redirect_within_the_host(location: str, path: str) -> None:
    async def answer(writer: asyncio.StreamWriter, asked: str) -> None:
        if asked == "/a/1.png":
            await replying(b"", f"location: {location}\r\n", "302 Found")(writer, asked)
        else:
            await replying(asked.encode())(writer, asked)

    async with served(answer) as server:
        fetcher, _ = fetcher_of(f"http://images.test:{server.port}")
        found = await fetcher.fetch(f"http://images.test:{server.port}/a/1.png", "here")
    assert found.decode() == path


async def test_next_address_is_dialled_where_the_first_does_not_answer() -> None:
    async with served(replying(b"pixels")) as server:
        fetcher, _ = fetcher_of(
            f"http://images.test:{server.port}", addresses=[("127.0.0.2", "127.0.0.1")]
        )
        assert await fetcher.fetch(f"http://images.test:{server.port}/", "here") == b"pixels"


async def test_three_redirects_are_followed_and_not_more() -> None:
    async def answer(writer: asyncio.StreamWriter, path: str) -> None:
        left = int(path.strip("/"))
        if left:
            await replying(b"", f"location: /{left - 1}\r\n", "302 Found")(writer, path)
        else:
            await replying(b"pixels")(writer, path)

    async with served(answer) as server:
        fetcher, asked = fetcher_of(f"http://images.test:{server.port}")
        assert await fetcher.fetch(f"http://images.test:{server.port}/3", "here") == b"pixels"
        assert len(asked) == 4  # each hop is resolved and checked
        code = await code_of(fetcher, f"http://images.test:{server.port}/11")
    assert code == ErrorCode.IMAGE_FETCH_FAILED


@pytest.mark.parametrize(
    "answer",
    [
        replying(b"x" * 1001),
        replying(b"x", "content-length: 1001\r\n"),
        replying(b"x", "content-length: 500\r\n"),  # less than it says
        replying(b"\x1f\x8b", "content-encoding: gzip\r\n"),
        replying(b"x", "content-encoding: br, gzip\r\n"),
        replying(b"no", status="404 Not Found"),
        replying(b"no", status="500 Oh"),
        replying(b"no", status="206 Partial Content"),
        replying(b"", status="nonsense"),
        replying(b"", "x: " + "y" * 200_000 + "\r\n"),
    ],
)
async def test_bad_answers(answer: Answer) -> None:
    async with served(answer) as server:
        fetcher, _ = fetcher_of(f"http://images.test:{server.port}")
        url = f"http://images.test:{server.port}/"
        assert await code_of(fetcher, url) == ErrorCode.IMAGE_FETCH_FAILED


async def test_endless_body_is_cut_at_the_limit() -> None:
    sent = 0

    async def answer(writer: asyncio.StreamWriter, path: str) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    async with served(answer) as server:
        fetcher, _ = fetcher_of(f"http://images.test:{server.port}", most=1 << 20)
        url = f"http://images.test:{server.port}/"
        assert await code_of(fetcher, url) == ErrorCode.IMAGE_FETCH_FAILED
    assert sent < 16 << 20


async def test_dripping_body_ends_with_the_total_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_TOTAL_S", 0.5)
    gone = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter, path: str) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while not gone.is_set():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            gone.set()

    async with served(answer) as server:
        fetcher, _ = fetcher_of(f"http://images.test:{server.port}")
        began = time.monotonic()
        url = f"http://images.test:{server.port}/"
        assert await code_of(fetcher, url) == ErrorCode.IMAGE_FETCH_FAILED
        assert time.monotonic() - began < 5
        gone.set()


async def test_host_that_is_away() -> None:
    async with served(replying(b"")) as server:
        port = server.port
    fetcher, _ = fetcher_of(f"http://images.test:{port}")
    code = await code_of(fetcher, f"http://images.test:{port}/")
    assert code == ErrorCode.IMAGE_FETCH_FAILED


async def test_nothing_is_sent_for_a_url_that_is_not_listed() -> None:
    async with served(replying(b"secret")) as server:
        fetcher, asked = fetcher_of("images.test")
        for host in ("127.0.0.1", "localhost", "[::1]", "127.1", "images.test"):
            code = await code_of(fetcher, f"http://{host}:{server.port}/")
            assert code == ErrorCode.URL_NOT_ALLOWED
    assert (asked, server.num_connections) == ([], 0)
