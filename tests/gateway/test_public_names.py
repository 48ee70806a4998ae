"""What others build upon: the OpenAPI document and the names of metrics, as golden files."""

import json

from prometheus_client import CollectorRegistry

from services.gateway.access.parts import make_access
from services.gateway.main import create_app
from services.gateway.metrics import GatewayMetrics
from services.gateway.settings import GatewaySettings
from services.store.settings import StoreSettings
from services.worker.metrics import WorkerMetrics
from tests.golden_files import GoldenFiles

ACCESS = make_access(GatewaySettings(), StoreSettings())


def described(registry: CollectorRegistry) -> list[str]:
    collectors = set(registry._collector_to_names)  # there is no public way
    lines: list[str] = []
    for collector in collectors:
        for metric in collector.collect():
            labels = getattr(collector, "_labelnames", getattr(metric, "_labelnames", ()))
            lines.append(f"{metric.name} {metric.type} {{{','.join(labels)}}}")
    return sorted(lines)


def test_openapi_document(golden: GoldenFiles) -> None:
    document = create_app(GatewaySettings(), ACCESS, GatewayMetrics()).openapi()

    golden.check("openapi.json", json.dumps(document, indent=2, sort_keys=True) + "\n")


def test_openapi_document_knows_no_422() -> None:
    assert "422" not in json.dumps(
        create_app(GatewaySettings(), ACCESS, GatewayMetrics()).openapi()
    )


def test_metric_names(golden: GoldenFiles) -> None:
    lines = described(GatewayMetrics().registry) + described(WorkerMetrics().registry)

    golden.check("metric_names.txt", "\n".join(lines) + "\n")


def test_metric_labels_are_closed_sets() -> None:
    lines = described(GatewayMetrics().registry) + described(WorkerMetrics().registry)
    labels = {label for line in lines for label in line.partition("{")[2].rstrip("}").split(",")}

    assert labels - {""} <= {
        "route", "status", "model", "finish_reason", "code", "lane", "reason",
        "attempt", "source", "state", "tenant", "generates",
    }  # fmt: skip


def test_openapi_document_has_every_schema_that_it_names() -> None:
    document = create_app(GatewaySettings(), ACCESS, GatewayMetrics()).openapi()
    schemas = document["components"]["schemas"]
    text = json.dumps(document)
    named = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}

    assert named == set(schemas)
    request = schemas["ChatCompletionRequest"]
    assert {"model", "messages", "temperature"} <= set(request["properties"])
    assert {"ChatCompletion", "ErrorAnswer", "ModelList", "UserMessage"} <= named
