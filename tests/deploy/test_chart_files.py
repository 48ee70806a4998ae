"""What the chart has from elsewhere: files as in their sources, images as in docker-compose.yml."""

import json
import re
from typing import Any

import pytest
import yaml

from deploy.grafana.make_dashboards import boards
from deploy.helm.make_chart_files import FOLDER, OWN, files, present
from tests.deploy.chart import CHART, Manifests, Object, render
from tests.deploy.compose_file import services
from tests.deploy.figures import rules
from tests.support.program import ROOT

_SOURCE = "galen-prometheus"


def test_files_are_what_their_sources_make() -> None:
    """Otherwise: python -m deploy.helm.make_chart_files."""
    made = files()

    assert {path: (FOLDER / path).read_text(encoding="utf-8") for path in made} == made
    assert present() == made.keys() | OWN


def test_every_file_is_used_by_a_template() -> None:
    text = "".join(file.read_text(encoding="utf-8") for file in (CHART / "templates").glob("*"))
    for path in present():
        folder, _, name = path.rpartition("/")
        assert (f"files/{folder}/*" if folder else f'"{name}"') in text, path


@pytest.mark.parametrize("name", ["redis", "postgres"])
def test_stores_are_of_the_version_that_compose_runs(name: str) -> None:
    """Which is the one that tests/compose and docs/deployment.md speak of."""
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    assert values[name]["image"] == f"docker.io/library/{services()[name]['image']}"


def test_postgres_is_the_one_that_the_tests_of_compose_have() -> None:
    tested = (ROOT / "deploy" / "local" / "docker_engine.sh").read_text(encoding="utf-8")

    assert services()["postgres"]["image"] in re.findall(r"^(postgres:\S+) ", tested, re.MULTILINE)


# -------------------------------------------------------------------------- rules and dashboards


def rules_of(manifests: Manifests) -> list[dict[str, Any]]:
    return [
        rule
        for each in manifests.of("PrometheusRule")
        for group in each["spec"]["groups"]
        for rule in group["rules"]
    ]


def dashboards_of(manifests: Manifests) -> Object:
    (found,) = [
        each
        for each in manifests.of("ConfigMap")
        if each["metadata"]["name"].endswith("dashboards")
    ]
    return found


def test_every_alert_exists_in_a_cluster_too(rendered: dict[str, Manifests]) -> None:
    made = rendered["everything"].of("PrometheusRule")

    assert rules_of(rendered["everything"]) == [rule.fields for rule in rules()]
    assert {each["metadata"]["name"] for each in made} == {"galen-alerts", "galen-recording"}
    assert all(each["metadata"]["labels"]["release"] == "prometheus" for each in made)


def test_boards_are_those_of_grafana_with_the_cluster_s_source(
    rendered: dict[str, Manifests],
) -> None:
    found = dashboards_of(rendered["everything"])

    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["data"].keys() == {f"galen-{name}" for name in boards()}
    for name, text in boards().items():
        asked = json.loads(text.replace(f'"{_SOURCE}"', '"prometheus"'))
        assert json.loads(found["data"][f"galen-{name}"]) == asked
        assert _SOURCE in text
        assert _SOURCE not in found["data"][f"galen-{name}"]


def test_a_source_of_another_name_is_asked() -> None:
    monitoring = {"dashboards": {"enabled": True, "datasource": 'a "b"', "labels": {"my": "board"}}}
    found = dashboards_of(render({"monitoring": monitoring}))
    panels = [p for text in found["data"].values() for p in json.loads(text)["panels"]]

    assert found["metadata"]["labels"]["my"] == "board"
    assert {panel["datasource"]["uid"] for panel in panels} == {'a "b"'}


def test_rules_and_boards_are_off_by_default(rendered: dict[str, Manifests]) -> None:
    names = {each["metadata"]["name"] for each in rendered["defaults"].of("ConfigMap")}

    assert names == {"galen-redis"}
    assert rendered["defaults"].of("PrometheusRule") == []
