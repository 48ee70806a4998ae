"""The one reader of the gateway's state for all who look at it, and who may look.

What does *not* live here: what is shown (`status_view.py`).
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from services.ui.gateway_client import Gateways, Json
from services.ui.model_figures import figures_by_model
from services.ui.problems import GatewayError, Problem
from services.ui.rates import History, ModelRate, Point, Reading

_FRESH_S = 2.0
_TRUSTED_S = 10.0
"""A key that was just good sees what another one has read; a revoked one that much longer."""
_MOST_KEYS = 256
_NO_METRICS = Problem("The gateway's metrics cannot be read.")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How things stand.

    Args:
        status, errors: as the administration's routes have them.
        covered_s: what `rates` looks back over.
        no_rates: why there are no rates; None: there are.
    """

    read_at: datetime
    status: Json
    errors: list[Json]
    covered_s: float = 0.0
    rates: list[ModelRate] = field(default_factory=list[ModelRate])
    points: list[Point] = field(default_factory=list[Point])
    no_rates: Problem | None = None


class StatusReader:
    """Reads at most every two seconds, whoever asks, and knows which keys may.

    Args:
        clock: seconds; a test has its own.
    """

    def __init__(self, gateways: Gateways, clock: Callable[[], float] = time.monotonic) -> None:
        self._gateways = gateways
        self._clock = clock
        self._reading = asyncio.Lock()
        self._history = History()
        self._snapshot: Snapshot | None = None
        self._read_s = 0.0
        self._trusted: dict[str, float] = {}

    async def read(self, key: str) -> Snapshot:
        """Return how things stand; raises GatewayError, also where the key may not see it."""
        async with self._reading:
            now_s = self._clock()
            is_trusted = now_s - self._trusted.get(key, -_TRUSTED_S) < _TRUSTED_S
            if is_trusted and self._snapshot is not None and now_s - self._read_s < _FRESH_S:
                return self._snapshot
            self._trusted.pop(key, None)
            snapshot = await self._read_with(key)
            if len(self._trusted) >= _MOST_KEYS:
                self._trusted.clear()
            self._trusted[key] = self._read_s = self._clock()
            self._snapshot = snapshot
            return snapshot

    def forget(self) -> None:
        """Read anew at the next call: something was changed."""
        self._read_s = self._clock() - _FRESH_S

    async def _read_with(self, key: str) -> Snapshot:
        gateway = self._gateways.of(key)
        status = await gateway.get("/admin/status")
        errors = (await gateway.get("/admin/errors"))["data"]
        snapshot = Snapshot(datetime.now(UTC), status, errors)
        try:
            page = await self._gateways.metrics(key)
            self._history.add(Reading(self._clock(), figures_by_model(page)))
        except GatewayError as error:
            return replace(snapshot, no_rates=error.problem)
        except ValueError:
            return replace(snapshot, no_rates=_NO_METRICS)
        history = self._history
        return replace(
            snapshot, covered_s=history.covered_s(), rates=history.rates(), points=history.points()
        )
