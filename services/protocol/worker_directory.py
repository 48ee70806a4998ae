"""Who is alive: leases and records of workers, the leases of gateways, and what happens at a death.

A lease belongs to one incarnation of a worker and is renewed while its engine makes progress. When
it is over, `reap` takes all requests of that incarnation at once and tells their gateways.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from services.protocol import keys
from services.protocol.connection import Script, as_text
from services.protocol.messages import (
    PROTOCOL_VERSION,
    LossReason,
    ProtocolError,
    WorkerRecord,
    decode_record,
    encode,
)
from services.protocol.request_queue import FencedError
from services.protocol.wire import RedisWire

_WORKER_BEAT = Script("worker_beat")
_GATEWAY_BEAT = Script("gateway_beat")
_REAP = Script("release_lanes", "reap")

ALL_SUSPECT = "*"
"""Stands for every request of the worker in `report_death`."""


@dataclass(frozen=True, slots=True)
class GatewayPulse:
    """What a gateway's heartbeat found.

    Args:
        lease_lived: False: the lease had run out; workers may have dropped this gateway's requests.
        epoch: changes when Redis has lost its data.
    """

    lease_lived: bool
    epoch: str


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """What Redis counts, since its data set began.

    Args:
        dead_letters: requests in the dead-letter stream.
        fenced_writes: refused to workers without a lease.
        fenced_renewals: of leases that were over.
    """

    dead_letters: int = 0
    fenced_writes: int = 0
    fenced_renewals: int = 0


class WorkerDirectory:
    """Reads and writes the directory; used by workers, their parents and gateways."""

    def __init__(self, wire: RedisWire) -> None:
        self._wire = wire

    @property
    def address(self) -> str:
        """Of its Redis, without a password."""
        return self._wire.address

    async def register(self, record: WorkerRecord) -> None:
        """Begin a lease for a new incarnation."""
        await self._beat(record, "register")

    async def renew(self, record: WorkerRecord) -> None:
        """Renew the lease and the record; raises FencedError when the lease was over."""
        if await self._beat(record, "renew") == "FENCED":
            raise FencedError(record.worker_id)

    async def _beat(self, record: WorkerRecord, kind: str) -> str:
        return as_text(
            await _WORKER_BEAT.run(
                self._wire,
                (keys.LEASES, keys.WORKERS, keys.MODELS, keys.FENCED_RENEWALS, keys.UNLOADED),
                record.worker_id,
                keys.LEASE_MS,
                encode(record),
                kind,
                record.model.id,
            )
        )

    async def report_death(
        self, worker_id: str, reason: LossReason, suspects: Sequence[str] = ()
    ) -> None:
        """Take all requests of a worker that is known to be gone.

        Args:
            suspects: request ids that may be why; they alone get a strike, and run alone next.
                `ALL_SUSPECT` for all. Without any, every request gets a strike and runs as usual
                (unless the worker handed them back, which is nobody's fault).
        """
        await self._reap(worker_id, reason, suspects)

    async def reap_expired(self) -> int:
        """Take all requests of workers whose lease is over; returns how many workers that were."""
        return await self._reap("", "lease_expired", ())

    async def _reap(self, worker_id: str, reason: LossReason, suspects: Sequence[str]) -> int:
        reply = await _REAP.run(
            self._wire,
            (keys.LEASES, keys.WORKERS, keys.DEAD),
            keys.PREFIX,
            keys.GROUP,
            keys.DEAD_LETTERS_KEPT,
            keys.DELIVERY_LIMIT,
            PROTOCOL_VERSION,
            worker_id,
            reason,
            keys.WORK_TTL_MS,
            len(suspects),
            *suspects,
        )
        return int(reply)

    async def gateway_beat(self, gateway_id: str) -> GatewayPulse:
        """Renew a gateway's lease and the lifetime of its reply stream."""
        lived, epoch = await _GATEWAY_BEAT.run(
            self._wire,
            (
                keys.gateway_lease(gateway_id),
                keys.events(gateway_id),
                keys.inflight(gateway_id),
                keys.EPOCH,
            ),
            keys.GATEWAY_LEASE_MS,
            keys.GATEWAY_STATE_MS,
            secrets.token_hex(8),
        )
        return GatewayPulse(bool(lived), as_text(epoch))

    async def gateway_leave(self, gateway_id: str) -> None:
        """Remove what a gateway leaves behind; workers abort what they run for it."""
        await self._wire.execute_command(
            "DEL",
            keys.gateway_lease(gateway_id),
            keys.events(gateway_id),
            keys.inflight(gateway_id),
        )

    async def workers(self) -> list[WorkerRecord]:
        """Return the records of all workers with a lease; unreadable ones are left out."""
        records = await self._hash(keys.WORKERS)
        leased = set(await self._wire.execute_command("ZRANGE", keys.LEASES, 0, -1))
        return _readable([blob for worker, blob in records.items() if worker in leased])

    async def models_seen(self) -> list[WorkerRecord]:
        """Return, per model that was ever served, the record of its last worker to register."""
        return _readable(list((await self._hash(keys.MODELS)).values()))

    async def unloaded(self) -> frozenset[str]:
        """Return the models that were unloaded and that no worker has served since."""
        names: list[bytes] = await self._wire.execute_command("SMEMBERS", keys.UNLOADED)
        return frozenset(as_text(name) for name in names)

    async def waiting(self) -> dict[str, int]:
        """Return the number of waiting requests per `model|lane` (quoted)."""
        return await self._counts(keys.DEPTH)

    async def claimed(self) -> dict[str, int]:
        """Return the number of requests that workers ever took, per `model|lane` (quoted)."""
        return await self._counts(keys.CLAIMED)

    async def figures(self) -> QueueFigures:
        """Return what Redis counts of deaths and refusals."""
        counts = await self._wire.execute_command("MGET", keys.FENCED_WRITES, keys.FENCED_RENEWALS)
        dead_letters: int = await self._wire.execute_command("XLEN", keys.DEAD)
        return QueueFigures(dead_letters, *(int(count or 0) for count in counts))

    async def _counts(self, key: str) -> dict[str, int]:
        counts = await self._hash(key)
        return {as_text(field): int(count) for field, count in counts.items()}

    async def _hash(self, key: str) -> dict[bytes, bytes]:
        flat: list[bytes] = await self._wire.execute_command("HGETALL", key)
        return dict(zip(flat[::2], flat[1::2], strict=True))


def _readable(blobs: Sequence[bytes]) -> list[WorkerRecord]:
    records: list[WorkerRecord] = []
    for blob in blobs:
        try:
            records.append(decode_record(blob))
        except ProtocolError:
            continue  # another version's worker: not ours to dispatch to
    return records
