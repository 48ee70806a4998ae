"""Prometheus metrics of the gateway; labels are closed sets, never ids.

What they mean for whoever watches: docs/observability.md. What does *not* live here: rules, alerts
and dashboards (`deploy/`).
"""

from collections import Counter as Count
from collections.abc import Iterator, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from services.gateway.recent_errors import RecentErrors
from services.protocol.errors import ErrorCode
from services.protocol.messages import Finished, GenerationRequest, LossReason, WorkerRecord
from services.protocol.worker_directory import QueueFigures

_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TPOT_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)
_LAG_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1)
_QUEUE_S = (0.005, 0.025, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_DECODE_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

OTHER_TENANTS = "other"


class GatewayMetrics:
    """The gateway's metrics in a registry of their own, and its latest errors.

    Args:
        most_tenants: tenants that have a label of their own, those that come first; each costs as
            many time series as a histogram has.
    """

    def __init__(self, most_tenants: int = 20) -> None:
        registry = self.registry = CollectorRegistry()
        self.recent_errors = RecentErrors()
        self.shared = _SharedFigures()
        self._tenants: set[str] = set()
        self._waits: dict[tuple[str, str], Histogram] = {}
        self._most_tenants = most_tenants
        ProcessCollector(registry=registry)
        registry.register(self.shared)
        self.responses = Counter(
            "galen_gateway_responses",
            "Responses by route and status",
            ("route", "status"),
            registry=registry,
        )
        self.finished = Counter(
            "galen_gateway_finished_choices",
            "Choices that ended well",
            ("model", "finish_reason"),
            registry=registry,
        )
        self.failed = Counter(
            "galen_gateway_failed_requests",
            "Requests that ended with an error; whether of a route that generates",
            ("code", "generates"),
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "galen_gateway_prompt_tokens", "Prompt tokens", ("model",), registry=registry
        )
        self.completion_tokens = Counter(
            "galen_gateway_completion_tokens", "Generated tokens", ("model",), registry=registry
        )
        self.ttft = Histogram(
            "galen_gateway_time_to_first_token_seconds",
            "Request received until the first non-empty content was sent",
            ("model",),
            buckets=_LATENCY_S,
            registry=registry,
        )
        self.tpot = Histogram(
            "galen_gateway_time_per_output_token_seconds",
            "(last - first token) / (completion tokens - 1)",
            ("model",),
            buckets=_TPOT_S,
            registry=registry,
        )
        self.duration = Histogram(
            "galen_gateway_request_duration_seconds",
            "Request received until its response was complete",
            ("model",),
            buckets=_LATENCY_S,
            registry=registry,
        )
        self.open_choices = Gauge(
            "galen_gateway_open_choices", "Choices under way", registry=registry
        )
        self.waiting = Gauge(
            "galen_gateway_waiting_requests",
            "Requests waiting in the queue",
            ("model", "lane"),
            registry=registry,
        )
        self.cancelled = Counter(
            "galen_gateway_cancelled_choices",
            "Choices given up before their end",
            registry=registry,
        )
        self.attempts = Counter(
            "galen_gateway_attempts",
            "Attempts that were put into the queue: the first one of a choice, or a later one",
            ("attempt",),
            registry=registry,
        )
        self.queue_time = Histogram(
            "galen_gateway_queue_time_seconds",
            "Waiting for a worker, of attempts that ended well, by Redis's clock",
            ("lane", "tenant"),
            buckets=_QUEUE_S,
            registry=registry,
        )
        self.images = Counter(
            "galen_gateway_images",
            "Images of requests: decoded, kept from an earlier request, or shared with another one",
            ("source",),
            registry=registry,
        )
        self.image_decode = Histogram(
            "galen_gateway_image_decode_seconds",
            "Decoding and preprocessing one image in a child, waiting for the child left out",
            buckets=_DECODE_S,
            registry=registry,
        )
        self.lost = Counter(
            "galen_gateway_lost_attempts",
            "Attempts that ended with their worker",
            ("reason",),
            registry=registry,
        )
        self.gaps = Counter(
            "galen_gateway_event_gaps", "Missing events that were found", registry=registry
        )
        self.stale_events = Counter(
            "galen_gateway_stale_events",
            "Events of an attempt or request that is over",
            registry=registry,
        )
        self.undecodable = Counter(
            "galen_gateway_undecodable_batches", "Event batches of no known form", registry=registry
        )
        self.stalled_clients = Counter(
            "galen_gateway_stalled_clients", "Clients cut for not reading", registry=registry
        )
        self.audit_waiting = Gauge(
            "galen_gateway_audit_waiting_records",
            "Records of the audit that are not in the database yet",
            registry=registry,
        )
        self.audit_lost = Counter(
            "galen_gateway_audit_lost_records",
            "Records of the audit for which there was no room while the database was away",
            registry=registry,
        )
        self.audit_left_out = Counter(
            "galen_gateway_audit_left_out_records",
            "Requests of nobody known that were not recorded, since too many came in a minute",
            registry=registry,
        )
        self.open_jobs = Gauge(
            "galen_gateway_open_jobs",
            "Batches and evaluations that have not ended, as the database has them",
            registry=registry,
        )
        self.held_shards = Gauge(
            "galen_gateway_held_shards",
            "Parts of jobs that a job worker holds, as the database has them",
            registry=registry,
        )
        self.loop_lag = Histogram(
            "galen_gateway_event_loop_lag_seconds",
            "How late the event loop runs a timer",
            buckets=_LAG_S,
            registry=registry,
        )

        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Make the series of closed sets: the first of them to happen is an increase, too."""
        for code in ErrorCode:
            for generates in ("yes", "no"):
                self.failed.labels(code.value, generates)
        for reason in get_args(LossReason):
            self.lost.labels(reason)
        self.first_attempts = self.attempts.labels("first")
        self.later_attempts = self.attempts.labels("again")
        for source in ("decoded", "kept", "shared"):
            self.images.labels(source)

    def note_wait(self, request: GenerationRequest, end: Finished) -> None:
        """Note how long a request waited for its worker, where that is known."""
        if end.queue_s >= 0:
            key = (request.lane, self.tenant_label(request.tenant_id))
            if key not in self._waits:  # finding a series costs more than adding to it
                self._waits[key] = self.queue_time.labels(*key)
            self._waits[key].observe(end.queue_s)

    def tenant_label(self, tenant_id: str) -> str:
        """Return the label of a tenant: a closed set, whoever asks."""
        if tenant_id not in self._tenants:
            if len(self._tenants) >= self._most_tenants:
                return OTHER_TENANTS
            self._tenants.add(tenant_id)
        return tenant_id


class _SharedFigures(Collector):
    """What every gateway of one Redis says alike: add nothing up, take the largest.

    A model that was unloaded, and a worker's state that nobody is in, are left out of the page
    instead of standing at their last value.
    """

    def __init__(self) -> None:
        self._is_redis_up = False
        self._queue = QueueFigures()
        self._workers: Count[tuple[str, str]] = Count()
        self._slots: Count[str] = Count()

    def set_redis(self, *, is_up: bool) -> None:
        """Note whether Redis answers."""
        self._is_redis_up = is_up

    def set_queue(self, figures: QueueFigures) -> None:
        """Note what Redis counts."""
        self._queue = figures

    def set_workers(self, models: Sequence[str], workers: Sequence[WorkerRecord]) -> None:
        """Note who serves what.

        Args:
            models: those that should have a worker, also where there is none.
        """
        self._workers = Count(dict.fromkeys(((model, "ready") for model in models), 0))
        self._workers.update((record.model.id, record.state) for record in workers)
        self._slots = Count()
        for record in workers:
            self._slots[record.model.id] += record.slots if record.state == "ready" else 0

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """See Collector."""
        yield GaugeMetricFamily(
            "galen_gateway_redis_up", "Whether Redis answers", value=self._is_redis_up
        )
        workers = GaugeMetricFamily(
            "galen_gateway_workers",
            "Workers with a lease; a model that somebody should serve has its line at 0, too",
            labels=("model", "state"),
        )
        for labels, count in self._workers.items():
            workers.add_metric(labels, count)
        yield workers
        slots = GaugeMetricFamily(
            "galen_gateway_worker_slots",
            "Requests that ready workers run at once",
            labels=("model",),
        )
        for model, count in self._slots.items():
            slots.add_metric((model,), count)
        yield slots
        yield GaugeMetricFamily(
            "galen_gateway_dead_letters",
            "Requests in the dead-letter stream; it keeps the latest 10000",
            value=self._queue.dead_letters,
        )
        yield CounterMetricFamily(
            "galen_gateway_fenced_writes",
            "Writes that Redis refused to workers whose lease was over",
            value=self._queue.fenced_writes,
        )
        yield CounterMetricFamily(
            "galen_gateway_fenced_renewals",
            "Leases that were over when their worker renewed them",
            value=self._queue.fenced_renewals,
        )
