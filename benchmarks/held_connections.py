"""Connections that are held: idle ones, and heads that come byte by byte. A process of its own.

Started by `idle_connections.py`: says "ready", holds them until its stdin ends, and prints `Held`.
"""

import asyncio
import random
import sys
import time
from contextlib import suppress

import msgspec

_AT_ONCE = 200
_SPREAD_S = 10.0
"""Slow heads begin spread over so long, as those of many strangers would."""
_IDLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
_SLOW = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


class Held(msgspec.Struct):
    """What became of the connections that are held.

    Args:
        cut_s: from a slow head's first byte to its 408.
        others: slow heads that ended in another way.
        open_idle: idle connections that the gateway still held at the end.
    """

    cut_s: list[float] = []
    others: int = 0
    open_idle: int = 0


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _ask_once(port: int, gate: asyncio.Semaphore) -> Streams:
    async with gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_IDLE)
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"}")
    return reader, writer


async def _keep(streams: Streams, held: Held) -> None:
    """Hold a connection that has been used once."""
    reader, writer = streams
    held.open_idle += 1
    try:
        await reader.read()
        held.open_idle -= 1
    finally:
        writer.close()


async def _slow(port: int, gate: asyncio.Semaphore, held: Held) -> None:
    """Send a head that never ends, a byte a second, again and again."""
    await asyncio.sleep(random.uniform(0, _SPREAD_S))
    while True:
        async with gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = time.monotonic()
        writer.write(_SLOW)
        dribbling = asyncio.create_task(_dribble(writer))
        try:
            answer = await reader.read(4096)
            if answer.startswith(b"HTTP/1.1 408"):
                held.cut_s.append(time.monotonic() - began)
            else:
                held.others += 1
        except OSError:
            held.others += 1
        finally:
            dribbling.cancel()
            writer.close()


async def _dribble(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while True:
            await asyncio.sleep(1.0)
            writer.write(b"x")


async def hold(port: int, num_idle: int, num_slow: int) -> Held:
    """Hold connections until stdin ends."""
    held, gate = Held(), asyncio.Semaphore(_AT_ONCE)
    async with asyncio.timeout(60):
        opened = await asyncio.gather(*(_ask_once(port, gate) for _ in range(num_idle)))
    tasks = [asyncio.create_task(_keep(streams, held)) for streams in opened]
    tasks += [asyncio.create_task(_slow(port, gate, held)) for _ in range(num_slow)]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    seen = Held(list(held.cut_s), held.others, held.open_idle)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return seen


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[1:]]
    print(msgspec.json.encode(asyncio.run(hold(*numbers))).decode(), flush=True)
