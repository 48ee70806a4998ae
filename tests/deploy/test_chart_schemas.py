"""Every object of the chart, as Kubernetes, KEDA and the Prometheus operator would check it."""

import json
from pathlib import Path
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import pytest

from tests.deploy.chart import CHART, NAMESPACE, RELEASE, Manifests, Object, render

_CRDS = Path(__file__).parent / "crds"
_OLDEST = "1.30"  # what Chart.yaml asks for
_VERSIONS = (_OLDEST, "1.33", kubernetes_validate.latest_version())


def schema_of_extension(kind: str, version: str) -> dict[str, Any]:
    """Return the schema of a custom resource; where it comes from stands in it."""
    file = _CRDS / f"{kind.lower()}-{version.rpartition('/')[2]}.json"
    return json.loads(file.read_text(encoding="utf-8"))


def is_extension(each: Object) -> bool:
    return each["apiVersion"].startswith(("keda.sh/", "monitoring.coreos.com/"))


@pytest.mark.parametrize("version", _VERSIONS)
def test_objects_are_what_kubernetes_takes(manifests: Manifests, version: str) -> None:
    for each in manifests.objects:
        if not is_extension(each):
            kubernetes_validate.validate(dict(each), version, strict=True)


def test_an_unknown_field_would_be_seen(manifests: Manifests) -> None:
    pod = json.loads(json.dumps(manifests.of("Deployment")[0]))
    pod["spec"]["template"]["spec"]["terminationGracePeriod"] = 5

    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(pod, _OLDEST, strict=True)


def test_extensions_are_what_their_operators_take(rendered: dict[str, Manifests]) -> None:
    extensions = [e for m in rendered.values() for e in m.objects if is_extension(e)]
    for each in extensions:
        schema = schema_of_extension(each["kind"], each["apiVersion"])
        jsonschema.Draft202012Validator(schema).validate(each)

    assert {each["kind"] for each in extensions} == {
        "PodMonitor", "PrometheusRule", "ScaledObject", "ServiceMonitor",
    }  # fmt: skip


def test_an_unknown_field_of_an_extension_would_be_seen(rendered: dict[str, Manifests]) -> None:
    scaled = json.loads(json.dumps(rendered["gpu-models"].of("ScaledObject")[0]))
    scaled["spec"]["cooldown"] = 5
    schema = schema_of_extension("ScaledObject", "v1alpha1")

    with pytest.raises(jsonschema.ValidationError, match="cooldown"):
        jsonschema.Draft202012Validator(schema).validate(scaled)


def test_nothing_is_made_twice_and_everything_is_labelled(manifests: Manifests) -> None:
    names = [(each["kind"], each["metadata"]["name"]) for each in manifests.objects]
    assert len(names) == len(set(names))
    for each in manifests.objects:
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == RELEASE, each["kind"]
        assert each["metadata"].get("namespace", NAMESPACE) == NAMESPACE


def test_names_stay_short_enough_for_a_long_release_name() -> None:
    made = render({}, name="a-very-long-name-of-a-release-of-someone-in-a-hospital")

    assert max(len(each["metadata"]["name"]) for each in made.objects) <= 63


def test_helm_finds_nothing_to_complain_about() -> None:
    report = helm_python.lint(str(CHART))

    assert report["errors"] in (None, [])
    severe = [each for each in report["messages"] or () if each["severity"] > 1]
    assert severe == []
