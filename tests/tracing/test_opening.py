"""Tracing that is off costs nothing, and one that cannot be had says so."""

import subprocess
import sys

import pytest
from pydantic import ValidationError

from services.tracing.opening import open_tracing
from services.tracing.spans import NO_SPAN, NoTracing, logged
from services.worker.settings import WorkerSettings
from tests.support.program import ROOT

SERVICES = ["services.gateway.main", "services.worker.main", "services.worker.engine_process"]
OURS = {
    "services.tracing.otel", "opentelemetry.sdk.trace", "opentelemetry.exporter", "google.protobuf",
}  # fmt: skip
"""redis-py imports some of OpenTelemetry by itself, wherever it is installed."""


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("module", SERVICES)
def test_service_loads_nothing_for_traces_that_nobody_wants(module: str) -> None:
    done = run(
        f"import sys, {module}; from services.tracing.opening import open_tracing; "
        f"open_tracing(None, 'gateway'); sys.exit(sorted({OURS} & set(sys.modules)) or 0)"
    )

    assert done.returncode == 0, done.stderr


def test_tracing_without_its_extra_says_in_one_line_what_to_install() -> None:
    done = run(
        "import sys; sys.modules['opentelemetry'] = None; "
        "from services.tracing.opening import TracingMissingError, open_tracing\n"
        "try: open_tracing('http://127.0.0.1:1/v1/traces', 'worker')\n"
        "except TracingMissingError as error: sys.exit(str(error))"
    )

    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "pip install 'galen[tracing]'" in line
    assert "GALEN_WORKER_TRACES_URL" in line


@pytest.mark.parametrize(
    ("given", "meant"),
    [("", None), ("http://c:4318/v1/traces", "http://c:4318/v1/traces"), ("c:4318", "bad")],
)
def test_empty_address_is_none_and_another_kind_of_it_is_refused(
    given: str, meant: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALEN_WORKER_TRACES_URL", given)

    if meant == "bad":
        with pytest.raises(ValidationError):
            WorkerSettings()
    else:
        assert WorkerSettings().traces_url == meant


def test_what_is_not_traced_has_no_context_and_no_field_in_logs() -> None:
    tracing = open_tracing(None, "gateway")
    span = tracing.begin("x", "00-" + "a" * 32 + "-" + "b" * 16 + "-01").child("y")

    assert isinstance(tracing, NoTracing)
    assert span is NO_SPAN
    assert span.traceparent == ""
    assert logged(span) == {}
