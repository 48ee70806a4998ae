"""What Prometheus asks, records and reports, held by its own checker and by the metrics we have."""

import re

import pytest
import yaml

from services.gateway.settings import GatewaySettings
from services.protocol.errors import ErrorCode
from tests.deploy.compose_file import DOCKERFILES, last_stage, services
from tests.deploy.figures import PROMETHEUS, Rule, metrics, mistakes, rules, selectors
from tests.support.program import ROOT
from tests.support.promtool import promtool

ALERTS = [rule for rule in rules() if rule.is_alert]
RECORDS = [rule for rule in rules() if not rule.is_alert]
TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))
DOCUMENT = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")


def name_of(rule: Rule) -> str:
    return rule.name


def anchors(document: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", document, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles}


# ------------------------------------------------------------------------------ its own checker


def test_configuration_and_rules_are_good() -> None:
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_rules_are_good() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *(PROMETHEUS / "rules").glob("*.yml"))


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_rules_do_what_their_tests_say(file) -> None:
    promtool("test", "rules", file)


def test_a_rule_that_is_wrong_is_noticed(tmp_path) -> None:
    """The control: the tests of the rules can fail."""
    for folder in ("rules", "tests"):
        (tmp_path / folder).mkdir()
        for file in (PROMETHEUS / folder).glob("*.yml"):
            right, wrong = "galen:ready_workers:max == 0", "galen:ready_workers:max == 1"
            text = file.read_text().replace(right, wrong)
            (tmp_path / folder / file.name).write_text(text)

    with pytest.raises(AssertionError, match="GalenNoWorker"):
        promtool("test", "rules", tmp_path / "tests" / "alerts_test.yml")


# ------------------------------------------------------------------- what the metrics do not know


@pytest.mark.parametrize("rule", rules(), ids=name_of)
def test_rule_names_only_what_exists(rule: Rule) -> None:
    assert mistakes(rule.expr) == []


@pytest.mark.parametrize(
    ("expr", "wrong"),
    [
        ("sum(rate(galen_gateway_responses[5m]))", ["galen_gateway_responses"]),
        ('galen_gateway_redis_up{model="m"}', ["galen_gateway_redis_up{model}"]),
        ("max by (colour) (up)", ["by colour"]),
        ("galen:no_such:rule", ["galen:no_such:rule"]),
    ],
)
def test_a_name_that_does_not_exist_is_noticed(expr: str, wrong: list[str]) -> None:
    assert mistakes(expr) == wrong


def test_errors_of_ours_are_the_same_in_every_window_and_known_codes() -> None:
    ratios = [rule for rule in RECORDS if rule.name.startswith("galen:errors:ratio")]
    codes = {
        matcher.value
        for rule in ratios
        for selector in selectors(rule.expr)
        for matcher in selector.matchers.matchers
        if matcher.name == "code"
    }

    assert len(ratios) == 4
    (pattern,) = codes
    assert set(pattern.split("|")) <= {code.value for code in ErrorCode}


@pytest.mark.parametrize("rule", ALERTS, ids=name_of)
def test_codes_of_alerts_are_known(rule: Rule) -> None:
    for selector in selectors(rule.expr):
        for matcher in selector.matchers.matchers:
            if matcher.name == "code":
                assert matcher.value in {code.value for code in ErrorCode}


# ----------------------------------------------------------------------------------- documents


@pytest.mark.parametrize("rule", ALERTS, ids=name_of)
def test_alert_says_what_it_is_and_where_its_runbook_stands(rule: Rule) -> None:
    notes = rule.fields["annotations"]
    file, _, anchor = notes["runbook_url"].partition("#")

    assert set(notes) == {"summary", "description", "runbook_url"}
    assert rule.fields["labels"]["severity"] in {"page", "ticket"}
    assert notes["summary"]
    assert notes["description"].endswith(".")
    assert file == "docs/observability.md"
    assert anchor == rule.name.lower()
    assert anchor in anchors(DOCUMENT)


@pytest.mark.parametrize("rule", ALERTS, ids=name_of)
def test_alert_is_tested_silent_and_firing(rule: Rule) -> None:
    cases = [
        case
        for test in yaml.safe_load((PROMETHEUS / "tests" / "alerts_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == rule.name
    ]

    assert {bool(case["exp_alerts"]) for case in cases} == {True, False}


@pytest.mark.parametrize("rule", RECORDS, ids=name_of)
def test_record_is_tested_and_used(rule: Rule) -> None:
    tests = (PROMETHEUS / "tests" / "recording_test.yml").read_text()
    alerts = " ".join(alert.expr for alert in ALERTS)
    boards = " ".join(f.read_text() for f in (ROOT / "deploy/grafana/dashboards").glob("*.json"))
    name = re.compile(rf"{re.escape(rule.name)}(?![\w:])")

    assert name.search(tests)
    assert name.search(alerts + boards)


def test_document_lists_every_metric_and_no_other() -> None:
    table, _, _ = DOCUMENT.partition("## Alerts")
    listed = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    ours = {name for name in metrics() if name.startswith("galen_")}

    assert listed == ours


# ------------------------------------------------------------------------------------- targets


WORKERS = {name for name in services() if name.startswith("worker")}
IMAGES = {"worker.Dockerfile", "worker-cuda.Dockerfile"}


def scraped() -> dict[str, tuple[set[str], int]]:
    """Names and port of each job that finds its targets by DNS."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    return {
        job["job_name"]: (set(found["names"]), found["port"])
        for job in config["scrape_configs"]
        for found in job.get("dns_sd_configs", [])
    }


def test_targets_are_the_services_that_have_metrics() -> None:
    targets = scraped()

    assert {job: names for job, (names, _) in targets.items()} == {
        "gateway": {"gateway"},
        "worker": WORKERS,
    }
    assert targets["gateway"][1] == GatewaySettings.model_fields["port"].default


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_image_serves_its_metrics_where_they_are_asked_for(name: str) -> None:
    (file,) = [file for file in DOCKERFILES if file.name == name]
    given = " ".join(each.words for each in last_stage(file) if each.name == "ENV").split()

    assert f"GALEN_WORKER_METRICS_PORT={scraped()['worker'][1]}" in given
    assert "GALEN_WORKER_METRICS_HOST=0.0.0.0" in given


def test_source_of_the_dashboards_is_the_service() -> None:
    text = (ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text()
    (source,) = yaml.safe_load(text)["datasources"]

    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services()
    assert "./deploy/prometheus:/etc/prometheus:ro,z" in services()["prometheus"]["volumes"]
