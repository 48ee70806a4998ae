"""A client that writes down what it sees; on raw sockets, so that it can leave in every way.

One connection per request. `leaving` makes it go away by itself: after so many tokens, by closing
(FIN), by a reset (RST), or by closing its sending side only (HALF) and reading on to the end.
"""

import asyncio
import json
import re
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal

from tests.support.history import Record

_KNOB_N = re.compile(r"\bn=(\d+)")
DEADLINE_S = 60.0

How = Literal["FIN", "RST", "HALF"]


@dataclass(frozen=True, slots=True)
class Leaving:
    """When and how a client goes away.

    Args:
        after_tokens: of its stream; a client that does not stream leaves at the first chance.
        when: leaves when this turns true, instead of counting tokens.
    """

    how: How
    after_tokens: int = 0
    when: asyncio.Event | None = None


class Client:
    """Sends chat requests to one gateway and records them.

    Args:
        model: what the stack serves.
        deadline_s: a request without an end for so long counts as lost.
        tls: speaks TLS, to `host`.
    """

    def __init__(
        self,
        port: int,
        *,
        model: str = "fake",
        deadline_s: float = DEADLINE_S,
        api_key: str = "",
        tls: ssl.SSLContext | None = None,
        host: str = "localhost",
    ) -> None:
        self.port = port
        self._head = f"host: {host}\r\n"
        if api_key:
            self._head += f"authorization: Bearer {api_key}\r\n"
        self._connection = {"ssl": tls, "server_hostname": host} if tls else {}
        self._model = model
        self._deadline_s = deadline_s
        self.records: list[Record] = []

    async def ask(
        self,
        prompt: str,
        *,
        stream: bool = True,
        leaving: Leaving | None = None,
        on_token: Callable[[Record], None] | None = None,
        into: list[Record] | None = None,
        **parameters: object,
    ) -> Record:
        """Send one request and record its whole history; never raises for what the server does.

        Args:
            into: a list that gets the record before anything is sent.
        """
        length = _KNOB_N.search(prompt)
        record = Record(
            f"{len(self.records)} {prompt} stream={stream}",
            stream,
            int(length.group(1)) if length else 16,
            time.monotonic(),
        )
        self.records.append(record)
        if into is not None:
            into.append(record)
        body = {
            "model": self._model, "stream": stream, "temperature": 0,
            "messages": [{"role": "user", "content": prompt}], **parameters,
        }  # fmt: skip
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(self._deadline_s):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", self.port, **self._connection
                )
                _send(writer, self._head, body)
                await self._receive(reader, writer, record, leaving, on_token)
        except TimeoutError:
            record.add(time.monotonic(), "silence")
        except (OSError, asyncio.IncompleteReadError) as error:
            record.add(time.monotonic(), "eof", type(error).__name__)
        finally:
            if writer is not None:
                writer.close()
        return record

    async def _receive(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        record: Record,
        leaving: Leaving | None,
        on_token: Callable[[Record], None] | None,
    ) -> None:
        if leaving is not None:
            reading = asyncio.create_task(self._read(reader, record, leaving, on_token))
            await _until_it_leaves(reading, leaving, record)
            record.left = time.monotonic()
            if leaving.how == "RST":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
                writer.transport.abort()
            elif leaving.how == "HALF":
                writer.write_eof()
                await reader.read()  # until the server has closed its side
            return
        await self._read(reader, record, None, on_token)

    async def _read(
        self,
        reader: asyncio.StreamReader,
        record: Record,
        leaving: Leaving | None,
        on_token: Callable[[Record], None] | None,
    ) -> None:
        await _read_head(reader, record)
        record.add(time.monotonic(), "headers", str(record.status))
        if record.status == 200 and record.stream:
            async for line in _lines(_chunks(reader)):
                _note_line(line, record)
                if on_token is not None and record.num_tokens:
                    on_token(record)
                if leaving and leaving.when is None and record.num_tokens >= leaving.after_tokens:
                    return
            return
        _note_body(await _read_body(reader, record), record)


def _send(writer: asyncio.StreamWriter, headers: str, body: dict[str, object]) -> None:
    blob = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\n{headers}connection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(blob)}\r\n\r\n"
    )
    writer.write(head.encode() + blob)


async def _until_it_leaves(reading: "asyncio.Task[None]", leaving: Leaving, record: Record) -> None:
    """Return at the moment of leaving; a client that streams leaves when `reading` has ended."""
    try:
        if leaving.when is not None:
            waiting = asyncio.create_task(leaving.when.wait())
            await asyncio.wait([reading, waiting], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        else:
            assert record.stream, "a client that does not stream leaves by `when`"
            await reading
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _read_head(reader: asyncio.StreamReader, record: Record) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status, *fields = head.strip().split("\r\n")
    record.status = int(status.split()[1])
    for field in fields:
        name, _, value = field.partition(":")
        record.headers[name.strip().lower()] = value.strip()
    record.request_id = record.headers.get("x-request-id", "")


async def _read_body(reader: asyncio.StreamReader, record: Record) -> str:
    if "content-length" in record.headers:
        body = await reader.readexactly(int(record.headers["content-length"]))
    else:
        body = b"".join([chunk async for chunk in _chunks(reader)])
    return body.decode()


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the chunks of a chunked body; raises IncompleteReadError where it is cut off."""
    while True:
        size = int(await reader.readuntil(b"\r\n"), 16)
        chunk = await reader.readexactly(size + 2)
        if size == 0:
            return
        yield chunk[:-2]


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n\n")
        for line in lines:
            yield line


def _note_line(line: bytes, record: Record) -> None:
    now = time.monotonic()
    if line.startswith(b":"):
        record.add(now, "ping")
        return
    text = line.removeprefix(b"data: ")
    if text == b"[DONE]":
        record.add(now, "done")
        return
    chunk = json.loads(text)
    if "error" in chunk:
        record.add(now, "error", chunk["error"]["code"])
        return
    for choice in chunk["choices"]:
        content = choice["delta"].get("content")
        if content:
            record.add(now, "text", content, chunk["id"])
        if choice["finish_reason"] is not None:
            record.add(now, "finish", choice["finish_reason"], chunk["id"])


def _note_body(body: str, record: Record) -> None:
    now = time.monotonic()
    record.body = body
    try:
        answer = json.loads(body)
    except json.JSONDecodeError:  # not of a gateway: what stands before it has answered
        record.add(now, "refused", f"no JSON, status {record.status}")
        return
    if record.status != 200:
        record.add(now, "refused", answer["error"]["code"])
        return
    for choice in answer["choices"]:
        record.add(now, "answer", choice["message"]["content"], answer["id"])
