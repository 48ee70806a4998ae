"""The performance targets T1-T6 and how far they are met; pure.

T7 and T8 need a real engine: sections of their own below, by `make bench-engines`.
"""

from dataclasses import dataclass
from typing import Literal

from benchmarks import scenarios as s
from benchmarks.party import DIRECT, GALEN, LITELLM, NGINX, VLLM_ROUTER
from benchmarks.results import Figure, Results
from benchmarks.rounds import Measurement

GATEWAY_ROLE = "gateway"


@dataclass(frozen=True, slots=True)
class Target:
    """One bound and the value that stands against it.

    Args:
        value: None where it was not measured.
    """

    id: str
    what: str
    bound: float
    direction: Literal["at_least", "at_most"]
    unit: str
    value: float | None

    @property
    def is_met(self) -> bool | None:
        """Whether the bound is kept; None where nothing was measured."""
        if self.value is None:
            return None
        if self.direction == "at_least":
            return self.value >= self.bound
        return self.value <= self.bound

    @property
    def margin(self) -> float | None:
        """How many times better than the bound, above 1 is met; None where that has no sense."""
        if self.value is None or not self.bound or not self.value:
            return None
        ratio = self.value / self.bound
        return ratio if self.direction == "at_least" else 1 / ratio


def requests_per_s(measurement: Measurement) -> float:
    """Requests finished per second."""
    return measurement.load.rps


def tokens_per_s(measurement: Measurement) -> float:
    """Tokens that arrived per second."""
    return measurement.load.tok_s


def ttft_p50_ms(measurement: Measurement) -> float:
    """Median time to the first token, as the client sees it."""
    return measurement.load.ttft_ms.p50


def ttft_p99_ms(measurement: Measurement) -> float:
    """99th percentile of the time to the first token."""
    return measurement.load.ttft_ms.p99


def loop_lag_ms(measurement: Measurement) -> float | None:
    """Event loop lag, p99: the gateway's own measure, else the health route's time."""
    if measurement.metric_lag_p99_ms is not None:
        return measurement.metric_lag_p99_ms
    return measurement.probe.p99_ms if measurement.probe else None


def evaluate(results: Results) -> list[Target]:
    """Return every target with its value."""
    return [
        *_whole_answers(results),
        *_streamed(results),
        *_added_latency(results),
        *_many_streams(results),
        *_cost(results),
        *_images(results),
    ]


def failed_requests(results: Results, party: str = GALEN) -> dict[str, int]:
    """Return the failed requests of `party` by "scenario: kind"."""
    failed: dict[str, int] = {}
    for each in results.of_party(party):
        for kind in each.load.err.__struct_fields__:
            if count := int(getattr(each.load.err, kind)):
                key = f"{each.scenario}: {kind}"
                failed[key] = failed.get(key, 0) + count
    return failed


def _whole_answers(results: Results) -> list[Target]:
    what = "req/s, 64 clients, not streamed"
    return [
        _times(LITELLM, "T1", what, 30, results.ratio(s.C64_WHOLE, GALEN, LITELLM, requests_per_s)),
        _times(NGINX, "T1", what, 0.08, results.ratio(s.C64_WHOLE, GALEN, NGINX, requests_per_s)),
    ]


def _streamed(results: Results) -> list[Target]:
    targets: list[Target] = []
    for scenario, clients in ((s.C64_STREAM, 64), (s.C256_STREAM, 256)):
        what = f"tok/s, {clients} clients, streamed"
        for other, bound in ((LITELLM, 100), (VLLM_ROUTER, 1.0)):
            ratio = results.ratio(scenario, GALEN, other, tokens_per_s)
            targets.append(_times(other, "T2", what, bound, ratio))
    multi = [each.load.multi for each in results.of_party(GALEN)]
    what = "SSE events that hold more than one token"
    targets.append(Target("T2", what, 0, "at_most", "", float(sum(multi)) if multi else None))
    return targets


def _added_latency(results: Results) -> list[Target]:
    direct = results.median(s.C1_STREAM, DIRECT, ttft_p50_ms)

    def added(figure: Figure) -> float | None:
        ours = results.median(s.C1_STREAM, GALEN, figure)
        return None if ours is None or direct is None else ours - direct

    p99 = "added TTFT, 1 client: p99 less the direct p50"
    return [
        Target("T3", "added TTFT, 1 client, p50", 1.0, "at_most", "ms", added(ttft_p50_ms)),
        Target("T3", p99, 5.0, "at_most", "ms", added(ttft_p99_ms)),
    ]


def _many_streams(results: Results) -> list[Target]:
    slow = results.ratio(s.C1000_100MS, GALEN, DIRECT, tokens_per_s)
    fast = results.ratio(s.C1000_20MS, GALEN, DIRECT, tokens_per_s)
    ttft = results.median(s.C1000_100MS, GALEN, ttft_p50_ms)
    ran = bool(results.of_party(GALEN))
    failed = float(sum(failed_requests(results).values())) if ran else None
    return [
        _times(DIRECT, "T4", "tok/s, 1000 streams x 100 ms", 0.99, slow),
        Target("T4", "TTFT p50, 1000 streams x 100 ms", 20, "at_most", "ms", ttft),
        _times(DIRECT, "T4", "tok/s, 1000 streams x 20 ms", 0.75, fast),
        Target("T4", "failed requests, all scenarios", 0, "at_most", "", failed),
    ]


def _cost(results: Results) -> list[Target]:
    per_token = results.median(
        s.C1000_20MS, GALEN, lambda each: each.cpu_us_per_token(GATEWAY_ROLE)
    )
    per_request = results.median(
        s.C64_WHOLE, GALEN, lambda each: each.cpu_us_per_request(GATEWAY_ROLE)
    )
    peaks = [each.peak_rss_mb.get(GATEWAY_ROLE, 0.0) for each in results.of_party(GALEN)]
    token = "CPU of the gateway process per token, 1000 streams x 20 ms"
    request = "CPU of the gateway process per request, 64 clients, not streamed"
    memory = "peak RSS of the gateway process, all scenarios"
    return [
        Target("T5", token, 30, "at_most", "us", per_token),
        Target("T5", request, 300, "at_most", "us", per_request),
        Target("T5", memory, 150, "at_most", "MB", max(peaks) if peaks else None),
    ]


def _images(results: Results) -> list[Target]:
    targets: list[Target] = []
    for scenario, images in ((s.IMAGE_SAME, "same"), (s.IMAGE_DISTINCT, "distinct")):
        what = f"req/s, 1 MB bodies, 16 clients, {images} image"
        lag = results.median(scenario, GALEN, loop_lag_ms)
        ratio = results.ratio(scenario, GALEN, LITELLM, requests_per_s)
        targets.append(_times(LITELLM, "T6", what, 20, ratio))
        targets.append(
            Target("T6", f"event loop lag p99, {images} image", 20, "at_most", "ms", lag)
        )
    return targets


def _times(other: str, target_id: str, what: str, bound: float, value: float | None) -> Target:
    return Target(target_id, what, bound, "at_least", f"x {other}", value)
