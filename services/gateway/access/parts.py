"""What the gateway has for keys, limits and use: made before the application, alive within it."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from services.gateway.access.gate import Gate
from services.gateway.access.key_ring import KeyRing
from services.gateway.access.limiter import Limiter
from services.gateway.access.local_only import is_loopback
from services.gateway.access.meter import Meter
from services.gateway.access.usage import UsageLedger
from services.gateway.job_store import JobStore
from services.gateway.settings import GatewaySettings
from services.protocol.connection import open_wire
from services.protocol.errors import UnavailableError
from services.protocol.key_limits import LimitBook
from services.protocol.wire import RedisWire
from services.store.key_records import has_keys
from services.store.settings import StoreSettings

_log = structlog.get_logger()

_NO_KEYS = (
    "the gateway would listen on {host}, which others can reach, and there is no key yet: make one "
    "with `galen keys create` (on this database), listen on 127.0.0.1, or say "
    "GALEN_GATEWAY_AUTH=off if everybody may use it"
)


@dataclass(frozen=True, slots=True)
class Access:
    """Made by `make_access`; `open` begins it, `close` ends it."""

    store: JobStore
    ring: KeyRing
    gate: Gate
    meter: Meter
    usage: UsageLedger
    is_off: bool
    _wire: RedisWire

    async def open(self) -> None:
        """Read the keys, and say where nobody is asked for one."""
        if not self.is_off:
            await self.ring.refresh()
        if self.gate.is_open:
            how = "GALEN_GATEWAY_AUTH=off" if self.is_off else "no key was made yet"
            _log.warning("gateway.open.to_all_who_reach_it", why=how)

    def loops(self) -> tuple[Coroutine[Any, Any, None], ...]:
        """Return what has to run while the gateway runs."""
        watching = () if self.is_off else (self.ring.watch_forever(),)
        return (*watching, self.usage.flush_forever())

    async def close(self) -> None:
        """Write what was counted."""
        await self.meter.settled()
        await self._wire.aclose()


def make_access(settings: GatewaySettings, store_settings: StoreSettings) -> Access:
    """Make everything; nothing is connected before `open`."""
    store = JobStore(store_settings)
    ring = KeyRing(store, store_settings)
    usage = UsageLedger(store, ring)
    wire = open_wire(settings.redis_url.get_secret_value())
    return Access(
        store,
        ring,
        Gate(settings, ring),
        Meter(Limiter(LimitBook(wire), store), usage, settings.request_timeout_s),
        usage,
        settings.auth == "off",
        wire,
    )


def why_not_to_start(settings: GatewaySettings, store_settings: StoreSettings) -> str | None:
    """Return why a gateway must not listen where it is told to, in one line; None: it may.

    Where the database is away, it may: it lets nobody in until it knows the keys.
    """
    if settings.auth != "auto" or is_loopback(settings.host):
        return None

    async def look() -> bool:
        store = JobStore(store_settings)
        try:
            async with store.begin() as session:
                return await has_keys(session)
        except UnavailableError:
            return True
        finally:
            await store.close()

    return None if asyncio.run(look()) else _NO_KEYS.format(host=settings.host or "all addresses")
