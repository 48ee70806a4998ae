"""Prometheus metrics of the gateway; labels are closed sets, never ids."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.gateway.recent_errors import RecentErrors

_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TPOT_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)
_LAG_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1)


class GatewayMetrics:
    """The gateway's metrics in a registry of their own, and its latest errors."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.recent_errors = RecentErrors()
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
            "Requests that ended with an error",
            ("code",),
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
        self.loop_lag = Histogram(
            "galen_gateway_event_loop_lag_seconds",
            "How late the event loop runs a timer",
            buckets=_LAG_S,
            registry=registry,
        )
