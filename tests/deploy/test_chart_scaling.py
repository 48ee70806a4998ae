"""What KEDA asks Prometheus, evaluated by Prometheus' own `promtool` over series of ours.

The names of the metrics are checked against those that a gateway and a worker have.
"""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from services.gateway.metrics import GatewayMetrics
from services.protocol.keys import quoted
from services.worker.metrics import WorkerMetrics
from tests.deploy.chart import NAMESPACE, Manifests, Object, render
from tests.support.promtool import promtool

_ODD_NAME = "research/llava-34b"


@pytest.fixture(scope="module")
def triggers(rendered: dict[str, Manifests]) -> dict[str, Object]:
    """Return the metadata of each scaled model's trigger, by its Deployment."""
    scaled = rendered["gpu-models"].of("ScaledObject")
    return {
        each["spec"]["scaleTargetRef"]["name"]: each["spec"]["triggers"][0]["metadata"]
        for each in scaled
    }


def series(name: str, value: str, **labels: str) -> dict[str, str]:
    text = ",".join(f'{key}="{each}"' for key, each in {"namespace": NAMESPACE, **labels}.items())
    return {"series": f"{name}{{{text}}}", "values": value}


def waiting(model: str, lane: str, count: int, pod: str) -> dict[str, str]:
    return series(
        "galen_gateway_waiting_requests", str(count), model=quoted(model), lane=lane, pod=pod
    )


def running(slug: str, count: int, pod: str, namespace: str = NAMESPACE) -> dict[str, str]:
    labels = {"galen_model": slug, "pod": pod, "namespace": namespace}
    return series("galen_worker_running_requests", str(count), **labels)


def gateway(pod: str) -> dict[str, str]:
    return series("galen_gateway_open_choices", "0", pod=pod)


def check(folder: Path, query: str, given: list[dict[str, str]], expected: float | None) -> None:
    """Let promtool evaluate a query at one moment; fails where the answer is another."""
    samples = [] if expected is None else [{"labels": "{}", "value": expected}]
    test: dict[str, Any] = {
        "interval": "1m",
        "input_series": given,
        "promql_expr_test": [{"expr": query, "eval_time": "0m", "exp_samples": samples}],
    }
    file = folder / "test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}), encoding="utf-8")
    promtool("test", "rules", file)


def test_demand_is_what_waits_and_what_runs(triggers: dict[str, Object], tmp_path: Path) -> None:
    query = triggers["galen-worker-llava-med"]["query"]
    given = [
        # both gateways tell of the same queue
        waiting("llava-med", "interactive", 7, "gateway-1"),
        waiting("llava-med", "interactive", 6, "gateway-2"),
        waiting("llava-med", "batch", 30, "gateway-1"),
        waiting("llava-med", "batch", 30, "gateway-2"),
        waiting("another", "interactive", 500, "gateway-1"),
        running("llava-med", 60, "worker-1"),
        running("llava-med", 64, "worker-2"),
        running("another", 64, "worker-3"),
        running("llava-med", 64, "worker-1", namespace="other"),
        gateway("gateway-1"),
    ]
    check(tmp_path, query, given, 7 + 30 + 60 + 64)


def test_a_model_with_an_odd_name_is_found(triggers: dict[str, Object], tmp_path: Path) -> None:
    query = triggers["galen-worker-research-llava-34b"]["query"]
    given = [
        waiting(_ODD_NAME, "interactive", 3, "gateway-1"),
        running("research-llava-34b", 2, "worker-1"),
        gateway("gateway-1"),
    ]
    check(tmp_path, query, given, 5)


def test_an_idle_platform_has_no_demand(triggers: dict[str, Object], tmp_path: Path) -> None:
    check(tmp_path, triggers["galen-worker-llava-med"]["query"], [gateway("gateway-1")], 0)


def test_without_a_gateway_heard_of_there_is_no_answer_and_not_zero(
    triggers: dict[str, Object], tmp_path: Path
) -> None:
    # KEDA then falls back to as many workers as there are
    check(
        tmp_path, triggers["galen-worker-llava-med"]["query"], [running("llava-med", 60, "w")], None
    )
    assert triggers["galen-worker-llava-med"]["ignoreNullValues"] == "false"


def test_metrics_that_are_asked_for_exist(triggers: dict[str, Object]) -> None:
    exist = {f.name for f in GatewayMetrics().registry.collect()}
    exist |= {f.name for f in WorkerMetrics().registry.collect()}
    for each in triggers.values():
        assert set(re.findall(r"galen_(?:gateway|worker)_[a-z_]+", each["query"])) <= exist


def test_names_are_quoted_as_in_the_queue(triggers: dict[str, Object]) -> None:
    names = {
        unquote(name)
        for each in triggers.values()
        for name in re.findall(r',model="([^"]+)"', each["query"])
    }
    assert names == {"llava-med", _ODD_NAME}
    assert all(quoted(name) in json.dumps(list(triggers.values())) for name in names)


@pytest.mark.parametrize(("slots", "share"), [(1, "1"), (8, "6"), (64, "51")])
def test_a_worker_is_filled_to_four_fifths_before_another_comes(slots: int, share: str) -> None:
    model = {"name": "m", "path": "/m", "slots": slots, "autoscaling": {"enabled": True}}
    values = {"models": [model], "monitoring": {"prometheusUrl": "http://prometheus:9090"}}

    (scaled,) = render(values).of("ScaledObject")

    assert scaled["spec"]["triggers"][0]["metadata"]["threshold"] == share


def test_what_is_scaled_has_no_number_of_its_own(rendered: dict[str, Manifests]) -> None:
    manifests = rendered["everything"]
    scaled = {each["spec"]["scaleTargetRef"]["name"] for each in manifests.of("ScaledObject")}
    scaled |= {
        each["spec"]["scaleTargetRef"]["name"] for each in manifests.of("HorizontalPodAutoscaler")
    }
    for each in manifests.of("Deployment"):
        assert ("replicas" in each["spec"]) == (each["metadata"]["name"] not in scaled)


def test_pods_carry_the_label_that_prometheus_takes_over(rendered: dict[str, Manifests]) -> None:
    (monitor,) = rendered["gpu-models"].of("PodMonitor")
    labels = {key.replace("-", "_"): key for key in monitor["spec"]["podTargetLabels"]}

    assert labels == {"galen_model": "galen-model"}
    workers = [pod for pod in rendered["gpu-models"].pods() if pod.component == "worker"]
    assert all("galen-model" in pod.labels for pod in workers)
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert all(wanted.items() <= pod.labels.items() for pod in workers)
    (port,) = [each["port"] for each in monitor["spec"]["podMetricsEndpoints"]]
    assert all(port in {p["name"] for p in pod.container["ports"]} for pod in workers)


def test_the_gateways_metrics_are_asked_for_with_a_key(rendered: dict[str, Manifests]) -> None:
    (monitor,) = rendered["gpu-models"].of("ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"] == {"name": "galen-metrics-key", "key": "key"}

    (gateway,) = [p for p in rendered["gpu-models"].pods() if p.component == "gateway"]
    assert gateway.environment()["GALEN_GATEWAY_OPEN_METRICS"] == "false"
    (service,) = [
        s for s in rendered["gpu-models"].of("Service")
        if monitor["spec"]["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()
    ]  # fmt: skip
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_a_gateway_that_drains_is_no_target_that_is_down(rendered: dict[str, Manifests]) -> None:
    # it has closed its port while its last answers end; GalenGatewayDown would page for minutes
    (gateways,) = rendered["gpu-models"].of("ServiceMonitor")
    (endpoint,) = gateways["spec"]["endpoints"]
    (drop,) = [each for each in endpoint["relabelings"] if each.get("action") == "drop"]

    terminating = "__meta_kubernetes_endpointslice_endpoint_conditions_terminating"
    assert drop == {"action": "drop", "sourceLabels": [terminating], "regex": "true"}


def test_targets_bear_the_jobs_that_rules_and_dashboards_know(
    rendered: dict[str, Manifests],
) -> None:
    (gateways,) = rendered["gpu-models"].of("ServiceMonitor")
    (workers,) = rendered["gpu-models"].of("PodMonitor")
    (of_gateways,), (of_workers,) = (
        gateways["spec"]["endpoints"],
        workers["spec"]["podMetricsEndpoints"],
    )

    assert of_gateways["relabelings"][0] == {"targetLabel": "job", "replacement": "gateway"}
    assert of_workers["relabelings"] == [{"targetLabel": "job", "replacement": "worker"}]
