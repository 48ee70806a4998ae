"""How long a gateway's event loop keeps others waiting while it is under load.

From outside: the time of GET /healthz, asked every 20 ms on one kept connection (it includes the
wait for a core on a full machine). From inside, where the gateway exports it: the histogram
`galen_gateway_event_loop_lag_seconds`, the difference of two scrapes.
"""

import http.client
import re
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import httpx
import msgspec

from benchmarks.party import Party

METRIC = "galen_gateway_event_loop_lag_seconds"
INTERVAL_S = 0.02
_BUCKET = re.compile(rf'^{METRIC}_bucket\{{[^}}]*le="([^"]+)"[^}}]*\}} (\S+)$', re.MULTILINE)

Buckets = dict[float, float]


class ProbeResult(msgspec.Struct, frozen=True):
    """Times of the health route, milliseconds."""

    num_samples: int
    num_errors: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class HealthProbe:
    """Context manager that asks the health route of `party` until it is left."""

    def __init__(self, party: Party) -> None:
        self._party = party
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._samples_ms: list[float] = []
        self._num_errors = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def result(self) -> ProbeResult:
        """Return what was measured."""
        samples = sorted(self._samples_ms) or [-1.0]
        last = len(samples) - 1
        return ProbeResult(
            num_samples=len(self._samples_ms),
            num_errors=self._num_errors,
            p50_ms=samples[round(0.5 * last)],
            p99_ms=samples[round(0.99 * last)],
            max_ms=samples[last],
        )

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._party.port, timeout=10)
        while not self._stop.wait(INTERVAL_S):
            began = time.monotonic()
            try:
                connection.request("GET", self._party.health_path)
                status = connection.getresponse()
                status.read()
            except (OSError, http.client.HTTPException):
                self._num_errors += 1
                connection.close()
                continue
            self._num_errors += status.status != 200
            self._samples_ms.append((time.monotonic() - began) * 1e3)
        connection.close()


def scrape_lag(party: Party) -> Buckets:
    """Return the lag histogram of `party`, cumulative, by upper bound; empty if it has none."""
    if party.metrics_url is None:
        return {}
    try:
        return parse_lag(httpx.get(party.metrics_url, timeout=10).text)
    except httpx.HTTPError:
        return {}


def parse_lag(exposition: str) -> Buckets:
    """Read the lag histogram out of a metrics page; processes are summed."""
    buckets: Buckets = {}
    for bound, count in _BUCKET.findall(exposition):
        buckets[float(bound)] = buckets.get(float(bound), 0) + float(count)
    return buckets


def lag_p99_ms(before: Mapping[float, float], after: Mapping[float, float]) -> float | None:
    """Return the 99th percentile between two scrapes, milliseconds, interpolated in its bucket.

    None without samples; infinite where it lies above the last finite bound.
    """
    counts = [(bound, after[bound] - before.get(bound, 0)) for bound in sorted(after)]
    if not counts or counts[-1][1] <= 0:
        return None
    wanted = 0.99 * counts[-1][1]
    lower_s, below = 0.0, 0.0
    for bound_s, count in counts:
        if count >= wanted:
            share = (wanted - below) / (count - below)
            return (lower_s + (bound_s - lower_s) * share) * 1e3
        lower_s, below = bound_s, count
    return None
