"""Values that are taken, and values that are refused with a reason."""

import json
from collections.abc import Mapping
from typing import Any

import helm_python
import jsonschema
import pytest

from tests.deploy.chart import CHART, EXAMPLES, render

_MODEL = {"name": "m", "path": "/models/m"}


def schema() -> dict[str, Any]:
    return json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


def test_the_schema_is_one() -> None:
    jsonschema.Draft7Validator.check_schema(schema())


def test_every_value_has_a_place_in_the_schema_and_a_default() -> None:
    with helm_python.Chart.load(str(CHART)) as chart:
        values = chart.values

    def compare(values: Mapping[str, Any], part: Mapping[str, Any], at: str) -> None:
        assert values.keys() == part["properties"].keys() - {"global"}, at
        for name, value in values.items():
            inner = part["properties"][name]
            inner = (
                schema()["$defs"][inner["$ref"].rpartition("/")[2]] if "$ref" in inner else inner
            )
            if isinstance(value, dict) and inner.get("properties") and name != "resources":
                compare(value, inner, f"{at}.{name}")

    compare(values, schema(), "values")


@pytest.mark.parametrize(
    "values",
    [
        {"models": [_MODEL]},
        {"models": [{**_MODEL, "name": "org/model:v1.5", "gpus": 8, "engine": "vllm"}]},
        {"models": [{**_MODEL, "settings": {"CONTEXT_LENGTH": "2048"}}]},
        {"models": [{**_MODEL, "replicas": 0}]},
        {"requestTimeoutSeconds": 3600},
        {"image": {"registry": "localhost:5000/galen", "tag": "1.2.3-rc1"}},
        {"redis": {"image": "redis@sha256:" + "0" * 64}},
        {"ui": {"enabled": False}},
        {"existingSecret": "mine"},
        {"global": {"storageClass": "from a parent chart"}},
    ],
)
def test_good_values_are_taken(values: dict[str, Any]) -> None:
    assert render(values).objects


@pytest.mark.parametrize(
    ("values", "about"),
    [
        ({"gatewy": {}}, "gatewy"),
        ({"gateway": {"replica": 2}}, "replica"),
        ({"gateway": {"replicas": 0}}, "replicas"),
        ({"gateway": {"replicas": "2"}}, "replicas"),
        ({"gateway": {"settings": {"MAX_WAITING": 2048}}}, "MAX_WAITING"),
        ({"gateway": {"settings": {"max_waiting": "2048"}}}, "max_waiting"),
        ({"gateway": {"settings": {"AUTH": "off"}}}, "AUTH"),
        ({"gateway": {"settings": {"DRAIN_TIMEOUT_S": "1"}}}, "DRAIN_TIMEOUT_S"),
        ({"gateway": {"storeSettings": {"DATABASE_URL": "sqlite:///x"}}}, "DATABASE_URL"),
        ({"gateway": {"ingress": {"enabled": True}}}, "host"),
        ({"models": []}, "models"),
        ({"models": [{"path": "/models/m"}]}, "name"),
        ({"models": [{**_MODEL, "name": "two words"}]}, "name"),
        ({"models": [{**_MODEL, "path": "models/m"}]}, "path"),
        ({"models": [{**_MODEL, "engine": "llama.cpp"}]}, "engine"),
        ({"models": [{**_MODEL, "gpus": -1}]}, "gpus"),
        ({"models": [{**_MODEL, "slots": 0}]}, "slots"),
        ({"models": [{**_MODEL, "settings": {"SLOTS": "4"}}]}, "SLOTS"),
        (
            {
                "modelDefaults": {
                    "resources": {
                        "requests": {"cpu": "1", "memory": "1Gi"},
                        "limits": {"memory": "1Gi", "nvidia.com/gpu": "1"},
                    }
                }
            },
            "gpu",
        ),
        ({"jobs": {"resources": {"limits": {"memory": "much"}}}}, "memory"),
        ({"image": {"tag": "latest"}}, "tag"),
        ({"redis": {"image": "redis"}}, "image"),
        ({"redis": {"image": "redis:latest"}}, "image"),
        ({"redis": {"maxMemory": "1"}}, "maxMemory"),
        ({"requestTimeoutSeconds": 0}, "requestTimeoutSeconds"),
        ({"files": {"accessMode": "ReadOnlyMany"}}, "accessMode"),
        ({"monitoring": {"prometheusUrl": "prometheus:9090"}}, "prometheusUrl"),
        ({"networkPolicy": {"gatewayFrom": "everyone"}}, "gatewayFrom"),
        ({"networkPolicy": {"dns": {"to": []}}}, "dns"),
        ({"networkPolicy": {"tracesPort": 0}}, "tracesPort"),
        ({"tracing": {"url": "collector:4318"}}, "url"),
        ({"tracing": {"share": 2}}, "share"),
        ({"gateway": {"settings": {"TRACES_URL": "http://c/v1/traces"}}}, "TRACES_URL"),
        ({"models": [{**_MODEL, "settings": {"TRACES_URL": "http://c"}}]}, "TRACES_URL"),
        ({"serviceAccount": {"annotations": {"role": 1}}}, "role"),
        ({"monitoring": {"dashboards": {"datasource": ""}}}, "datasource"),
    ],
)
def test_bad_values_are_refused_by_the_schema(values: dict[str, Any], about: str) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=about):
        render(values)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"models": [{**_MODEL, "name": "a/b"}, {**_MODEL, "name": "a-b"}]}, "same name"),
        ({"models": [{"name": "m"}]}, "path is missing"),
        ({"models": [{**_MODEL, "name": "???"}]}, "no letter or digit"),
        ({"models": [{**_MODEL, "autoscaling": {"enabled": True}}]}, "prometheusUrl"),
        (
            {
                "models": [
                    {**_MODEL, "autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}}
                ],
                "monitoring": {"prometheusUrl": "http://prometheus:9090"},
            },
            "above maxReplicas",
        ),
        ({"models": [{**_MODEL, "surge": 0}]}, "no pod can be replaced"),
        ({"models": [{**_MODEL, "gpus": 1, "tensorParallelSize": 2}]}, "above gpus"),
        ({"monitoring": {"enabled": True}}, "keySecret"),
        ({"redis": {"internal": False}}, "existingSecret"),
        (
            {"tracing": {"url": "http://c:4318"}, "networkPolicy": {"tracesTo": []}},
            "where the collector is",
        ),
        ({"files": {"enabled": False}}, "FILES_URL"),
    ],
)
def test_values_that_contradict_one_another_are_refused(
    values: dict[str, Any], reason: str
) -> None:
    with pytest.raises(helm_python.HelmError, match=reason):
        render(values)


def test_an_entry_of_models_takes_what_it_does_not_say_from_the_defaults() -> None:
    values = {
        "models": [{**_MODEL, "slots": 3}],
        "modelDefaults": {"settings": {"DTYPE": "float16"}},
    }

    environment = render(values).pod("worker").environment()

    assert environment["GALEN_WORKER_SLOTS"] == "3"
    assert environment["GALEN_WORKER_DTYPE"] == "float16"


def test_examples_are_of_use() -> None:
    assert set(EXAMPLES) == {"defaults", "everything", "external-services", "gpu-models"}
