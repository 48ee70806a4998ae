"""Prometheus metrics of a worker; one process serves one model, which `galen_worker_info` names.

They begin anew with each engine process. What they mean for whoever watches: docs/observability.md.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

_QUEUE_S = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_PREFILL_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Figures of an engine's own scheduler.

    Args:
        kv_cache_usage: share of the KV cache in use, 0 to 1.
        running: requests in its batch.
        waiting: requests not yet in its batch.
        prefix_queries: prompt tokens looked up in the prefix cache since the start.
        prefix_hits: of them, those that were found.
        images_encoded: runs of the vision tower, one image each, since the start.
        images_reused: images whose features were kept from an earlier request.
    """

    kv_cache_usage: float = 0.0
    running: int = 0
    waiting: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    images_encoded: int = 0
    images_reused: int = 0


class WorkerMetrics:
    """The worker's metrics in a registry of their own.

    Args:
        engine_stats: reads the figures of the engine's own scheduler, from any thread.
        slots: of the worker.
        model: that it serves.
    """

    def __init__(
        self,
        engine_stats: Callable[[], EngineStats | None] = lambda: None,
        slots: int = 0,
        model: str = "",
    ) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        info = Gauge("galen_worker_info", "What it serves", ("model",), registry=self.registry)
        info.labels(model).set(1)
        Gauge("galen_worker_slots", "Requests that run at once", registry=self.registry).set(slots)
        self.queue_time = Histogram(
            "galen_worker_queue_time_seconds",
            "Waiting of the requests that were claimed, every attempt, by Redis's clock",
            ("lane",),
            buckets=_QUEUE_S,
            registry=self.registry,
        )
        self.prefill = Histogram(
            "galen_worker_prefill_seconds",
            "Given to the engine until its first token, of requests that ended well",
            buckets=_PREFILL_S,
            registry=self.registry,
        )
        self.images = Counter(
            "galen_worker_images",
            "Images of requests: brought from the store, or kept from an earlier request",
            ("source",),
            registry=self.registry,
        )
        self.running = Gauge(
            "galen_worker_running_requests", "Requests in the engine", registry=self.registry
        )
        self.steps = Counter(
            "galen_worker_engine_steps", "Engine steps with an event", registry=self.registry
        )
        self.tokens = Counter(
            "galen_worker_generated_tokens", "Generated tokens", registry=self.registry
        )
        self.aborted = Counter(
            "galen_worker_aborted_requests",
            "Requests that were given up before their end",
            registry=self.registry,
        )
        self.fenced = Counter(
            "galen_worker_fenced",
            "Times that this worker found its lease to be over",
            registry=self.registry,
        )
        for source in ("store", "kept"):
            self.images.labels(source)  # at zero: the first of them is an increase, too
        self.registry.register(_EngineCollector(engine_stats))


class _EngineCollector(Collector):
    """An engine's figures at the moment of the scrape; zeros for one that keeps none."""

    def __init__(self, read: Callable[[], EngineStats | None]) -> None:
        self._read = read

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        now = self._read() or EngineStats()
        yield GaugeMetricFamily(
            "galen_worker_kv_cache_usage_ratio",
            "Share of the engine's KV cache in use",
            value=now.kv_cache_usage,
        )
        yield GaugeMetricFamily(
            "galen_worker_scheduler_running_requests",
            "Requests in the batch of the engine's own scheduler",
            value=now.running,
        )
        yield GaugeMetricFamily(
            "galen_worker_scheduler_waiting_requests",
            "Requests that wait for room in that batch",
            value=now.waiting,
        )
        yield CounterMetricFamily(
            "galen_worker_prefix_cache_queried_tokens",
            "Prompt tokens looked up in the prefix cache",
            value=now.prefix_queries,
        )
        yield CounterMetricFamily(
            "galen_worker_prefix_cache_hit_tokens",
            "Prompt tokens found in the prefix cache",
            value=now.prefix_hits,
        )
        yield CounterMetricFamily(
            "galen_worker_encoded_images",
            "Images that went through the vision tower (transformers engine, LLaVA)",
            value=now.images_encoded,
        )
        yield CounterMetricFamily(
            "galen_worker_reused_images",
            "Images whose features were kept from an earlier request",
            value=now.images_reused,
        )
