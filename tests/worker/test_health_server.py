"""What a worker tells over HTTP, asked as a probe and as Prometheus do."""

import socket

import httpx
import pytest
from prometheus_client import CollectorRegistry, Gauge

from services.worker.health_server import serve_health


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("galen_worker_running_requests", "Requests", registry=registry).set(3)
    return registry


def test_a_worker_is_ready_when_it_says_so(registry: CollectorRegistry) -> None:
    is_ready = False
    port = serve_health("127.0.0.1", 0, registry, lambda: is_ready)
    url = f"http://127.0.0.1:{port}/readyz"

    assert httpx.get(url).status_code == 503
    is_ready = True
    assert httpx.get(url).status_code == 200


def test_metrics_are_told_whether_it_is_ready_or_not(registry: CollectorRegistry) -> None:
    port = serve_health("127.0.0.1", 0, registry, lambda: False)

    told = httpx.get(f"http://127.0.0.1:{port}/metrics")

    assert told.status_code == 200
    assert "galen_worker_running_requests 3.0" in told.text


def test_a_silent_client_keeps_nobody_out(registry: CollectorRegistry) -> None:
    port = serve_health("127.0.0.1", 0, registry, lambda: True)

    with socket.create_connection(("127.0.0.1", port)):
        assert httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200


def test_an_address_that_is_taken_is_an_error(registry: CollectorRegistry) -> None:
    port = serve_health("127.0.0.1", 0, registry, lambda: True)

    with pytest.raises(OSError, match="in use"):
        serve_health("127.0.0.1", port, registry, lambda: True)
