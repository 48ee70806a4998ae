"""Figures that need no request: labels that stay a closed set, and what all gateways say alike."""

from services.gateway.metrics import GatewayMetrics
from services.protocol.messages import (
    Finished,
    GenerationRequest,
    ModelCard,
    SamplingParams,
    WorkerRecord,
    WorkerState,
)

WAITED = "galen_gateway_queue_time_seconds_count"


def ended(metrics: GatewayMetrics, tenant: str, queue_s: float = 0.1) -> None:
    request = GenerationRequest("r", "g", tenant, "m", "interactive", (), SamplingParams())
    metrics.note_wait(request, Finished("r", 1, "stop", 1, 1, queue_s=queue_s))


def waits(metrics: GatewayMetrics, tenant: str) -> float | None:
    labels = {"lane": "interactive", "tenant": tenant}
    return metrics.registry.get_sample_value(WAITED, labels)


def worker(worker_id: str, model: str, state: WorkerState, slots: int = 4) -> WorkerRecord:
    card = ModelCard(model, "fake", 100, 0, frozenset(), frozenset())
    return WorkerRecord(worker_id, card, state, slots, 0, 0)


def test_tenants_beyond_the_first_share_one_label() -> None:
    metrics = GatewayMetrics(most_tenants=2)
    for tenant in ("a", "b", "c", "a", "d", "c"):
        ended(metrics, tenant)

    assert [waits(metrics, t) for t in ("a", "b", "c", "d", "other")] == [2, 1, None, None, 3]


def test_no_tenant_has_a_label_where_none_may() -> None:
    metrics = GatewayMetrics(most_tenants=0)
    ended(metrics, "a")

    assert [waits(metrics, tenant) for tenant in ("a", "other")] == [None, 1]


def test_wait_that_a_worker_did_not_tell_is_no_wait_of_zero() -> None:
    metrics = GatewayMetrics()
    ended(metrics, "a", queue_s=-1.0)

    assert waits(metrics, "a") is None


def workers(metrics: GatewayMetrics, model: str, state: str) -> float | None:
    labels = {"model": model, "state": state}
    return metrics.registry.get_sample_value("galen_gateway_workers", labels)


def slots(metrics: GatewayMetrics, model: str) -> float | None:
    return metrics.registry.get_sample_value("galen_gateway_worker_slots", {"model": model})


def test_model_that_lost_its_workers_stands_at_zero_until_it_is_unloaded() -> None:
    metrics = GatewayMetrics()
    metrics.shared.set_workers(["m"], [worker("w1", "m", "ready"), worker("w2", "m", "cordoned")])
    both = [workers(metrics, "m", state) for state in ("ready", "cordoned", "draining")]
    free = slots(metrics, "m")
    metrics.shared.set_workers(["m"], [])
    none = [workers(metrics, "m", state) for state in ("ready", "cordoned")]
    metrics.shared.set_workers([], [])

    assert both == [1, 1, None]
    assert free == 4  # a cordoned worker takes nothing
    assert none == [0, None]
    assert workers(metrics, "m", "ready") is None
