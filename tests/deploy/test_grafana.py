"""Dashboards: what their one source makes, of metrics that exist, as Grafana's schema has it."""

import json
from itertools import combinations, pairwise
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.make_dashboards import FOLDER, boards
from deploy.grafana.panels import WIDTH
from tests.deploy.compose_file import services
from tests.deploy.figures import mistakes

PROVISIONING = FOLDER.parent / "provisioning"
FILES = sorted(FOLDER.glob("*.json"))
BOARDS = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in FILES}
each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
each_panel = pytest.mark.parametrize(
    "panel",
    [
        pytest.param(panel, id=f"{board['uid']} {panel['title']}")
        for board in BOARDS.values()
        for panel in board["panels"]
    ],
)


def test_files_are_what_their_source_makes() -> None:
    """Otherwise: python -m deploy.grafana.make_dashboards."""
    assert {file.name: file.read_text(encoding="utf-8") for file in FILES} == boards()


@each_panel
def test_panel_asks_for_what_exists(panel: dict[str, Any]) -> None:
    assert panel["targets"]
    assert [wrong for target in panel["targets"] for wrong in mistakes(target["expr"])] == []


@each_panel
def test_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["description"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@each_board
def test_board_is_of_grafanas_schema(board: dict[str, Any]) -> None:
    read = Dashboard.from_json(board)

    assert json.loads(json.dumps(read, cls=JSONEncoder)) == board
    assert board["schemaVersion"] >= 39


@each_board
def test_panels_fill_the_page_and_do_not_overlap(board: dict[str, Any]) -> None:
    places = [panel["gridPos"] for panel in board["panels"]]

    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below
    for one, other in pairwise(places):
        assert other["x"] in {0, one["x"] + one["w"]}
    assert all(place["x"] + place["w"] <= WIDTH for place in places)


def test_names_of_boards_are_their_own() -> None:
    assert len({board["uid"] for board in BOARDS.values()}) == len(BOARDS)
    assert len({board["title"] for board in BOARDS.values()}) == len(BOARDS)


def test_every_panel_asks_the_source_that_is_provisioned() -> None:
    text = (PROVISIONING / "datasources" / "prometheus.yml").read_text()
    (source,) = yaml.safe_load(text)["datasources"]
    asked = {
        (target["datasource"]["uid"], target["datasource"]["type"])
        for board in BOARDS.values()
        for panel in board["panels"]
        for target in [*panel["targets"], panel]
    }

    assert asked == {(source["uid"], source["type"])}


def test_boards_are_provisioned_from_a_folder() -> None:
    text = (PROVISIONING / "dashboards" / "galen.yml").read_text()
    (provider,) = yaml.safe_load(text)["providers"]

    mounted = dict(volume.split(":")[:2] for volume in services()["grafana"]["volumes"])

    assert provider["type"] == "file"
    assert provider["options"]["path"] == mounted["./deploy/grafana/dashboards"]
    assert mounted["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
