"""The way back: one reply stream per gateway, one entry per gateway and engine step.

A capped stream loses tokens in silence when its reader falls behind, so this one is trimmed by what
the gateway has consumed, never by length. Tokens are numbered; the gateway sees gaps and repeats.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from services.protocol import keys
from services.protocol.connection import Script, as_text
from services.protocol.messages import PROTOCOL_VERSION
from services.protocol.wire import RedisWire

_PUBLISH = Script("publish")
_READ_COUNT = 256
_TRIM_EVERY = 64
"""Entries between two trims; a trim per read would double the commands of an idle stream."""


@dataclass(frozen=True, slots=True)
class End:
    """A request that ends with a write: it is acknowledged in the same transaction.

    Args:
        dead_letter: why it also goes to the dead letters, or "".
    """

    request_id: str
    attempt: int
    dead_letter: str = ""


class EventWriter:
    """The worker's half."""

    def __init__(self, wire: RedisWire) -> None:
        self._wire = wire

    async def publish(
        self, worker_id: str, gateway_id: str, payload: bytes, ends: Sequence[End]
    ) -> Literal["OK", "FENCED", "GATEWAY_GONE"]:
        """Append one entry and acknowledge what ends with it; safe to repeat.

        Args:
            payload: an encoded EventBatch, or b"" to acknowledge only.

        Raises:
            RedisError, OSError: Redis is away; repeat the call.
        """
        status = await _PUBLISH.run(
            self._wire,
            (
                keys.LEASES,
                keys.running(worker_id),
                keys.gateway_lease(gateway_id),
                keys.events(gateway_id),
                keys.inflight(gateway_id),
                keys.DEAD,
                keys.FENCED_WRITES,
            ),
            worker_id,
            keys.GROUP,
            keys.DEAD_LETTERS_KEPT,
            PROTOCOL_VERSION,
            keys.GATEWAY_STATE_MS,
            payload,
            *(field for end in ends for field in (end.request_id, end.attempt, end.dead_letter)),
        )
        return as_text(status)  # pyright: ignore[reportReturnType] - the script's three words


class EventReader:
    """The gateway's half: reads its stream in batches and trims what it has read."""

    def __init__(self, blocking: RedisWire, gateway_id: str) -> None:
        self._blocking = blocking
        self._key = keys.events(gateway_id)
        self._last_id = "0"
        self._since_trim = 0

    async def read(self) -> list[bytes]:
        """Return the payloads that have come since the last call; [] after `keys.BLOCK_S`.

        Entries returned by one call are trimmed by a later one, so a caller that fails between two
        calls loses nothing.
        """
        if self._since_trim >= _TRIM_EVERY:
            await self._trim()
        block_ms = int(keys.BLOCK_S * 1000)
        reply = await self._blocking.execute_command(
            "XREAD", "COUNT", _READ_COUNT, "BLOCK", block_ms,
            "STREAMS", self._key, self._last_id,
        )  # fmt: skip
        if not reply:
            if self._since_trim:  # an idle gateway keeps nobody's answer in Redis
                await self._trim()
            return []
        entries = reply[0][1]
        self._last_id = as_text(entries[-1][0])
        self._since_trim += len(entries)
        return [fields[1] for _, fields in entries]

    async def _trim(self) -> None:
        await self._blocking.execute_command("XTRIM", self._key, "MINID", self._next_id())
        self._since_trim = 0

    def restart(self) -> None:
        """Read from the beginning: the data set was lost, and ids may have begun anew."""
        self._last_id = "0"

    def _next_id(self) -> str:
        milliseconds, _, sequence = self._last_id.partition("-")
        return f"{milliseconds}-{int(sequence or 0) + 1}"
