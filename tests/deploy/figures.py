"""What rules and dashboards may name: the golden list of metrics, and the recording rules."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser
import yaml

from tests.support.program import ROOT

PROMETHEUS = ROOT / "deploy" / "prometheus"
_GOLDEN = re.compile(r"(\S+) (\w+) \{(.*)\}")
_SAMPLES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
_OF_EVERY_TARGET = {"job", "instance"}


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as its file has it; `name` of a record or an alert."""

    name: str
    is_alert: bool
    expr: str
    fields: dict[str, Any]


def rules() -> list[Rule]:
    """Every rule of every file."""
    found: list[Rule] = []
    for file in sorted((PROMETHEUS / "rules").glob("*.yml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            for fields in group["rules"]:
                name = fields.get("alert") or fields["record"]
                found.append(Rule(name, "alert" in fields, fields["expr"], fields))
    return found


def metrics() -> dict[str, frozenset[str]]:
    """Labels by the name of a metric, without what makes samples of it."""
    lines = (ROOT / "tests" / "golden" / "metric_names.txt").read_text().splitlines()
    rows = [row.groups() for line in lines if (row := _GOLDEN.fullmatch(line))]
    assert len(rows) == len(lines)
    return {name: frozenset(labels.split(",")) - {""} for name, _, labels in rows}


def known_samples() -> dict[str, frozenset[str]]:
    """Labels by the name that an expression may use."""
    text = (ROOT / "tests" / "golden" / "metric_names.txt").read_text()
    known: dict[str, frozenset[str]] = {"up": frozenset(_OF_EVERY_TARGET)}
    for name, kind, labels in _GOLDEN.findall(text):
        for end in _SAMPLES[kind]:
            more = {"le"} if end == "_bucket" else set()
            own = set(labels.split(",")) - {""}
            known[name + end] = frozenset(own | more | _OF_EVERY_TARGET)
    everything = frozenset[str]().union(*known.values())
    return known | {rule.name: everything for rule in rules() if not rule.is_alert}


def mistakes(expr: str) -> list[str]:
    """Names and labels of an expression that do not exist; raises where it cannot be read."""
    known, wrong = known_samples(), list[str]()
    everything = frozenset[str]().union(*known.values())

    def look(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            labels = {matcher.name for matcher in node.matchers.matchers}
            if node.name not in known:
                wrong.append(str(node.name))
            else:
                wrong.extend(f"{node.name}{{{label}}}" for label in labels - known[node.name])
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            wrong.extend(f"by {each}" for each in set(node.modifier.labels) - everything)

    promql_parser.walk(promql_parser.parse(expr), look)
    return wrong


def selectors(expr: str) -> Iterator[promql_parser.VectorSelector]:
    """Every place of an expression that names a metric."""
    found: list[promql_parser.VectorSelector] = []

    def look(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expr), look)
    yield from found
