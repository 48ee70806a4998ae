"""Prometheus metrics of a worker; labels are none: one process serves one model."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class WorkerMetrics:
    """The worker's metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
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
