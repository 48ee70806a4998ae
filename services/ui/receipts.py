"""What a receipt of an evaluation says, as rows of tables, and whether two can be compared. Pure.

`evaluation/receipt.py` makes receipts, and `galen evaluate compare` is the judge of two: it adds
the interval of a difference, and its p-value. What does *not* live here: HTML (`html_tables.py`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from services.ui.html_tables import percent

Receipt = Mapping[str, Any]
LEGACY = "legacy-v1"
_HEADLINES = {False: "standard-v1/open recall", True: "standard-v1/closed accuracy"}
_MUST_AGREE = {
    "kind": "kind of run",
    "benchmark": "benchmark",
    "items_sha256": "questions (items_sha256)",
    "images_sha256": "images (images_sha256)",
    "decoding": "decoding",
    "metric_versions": "versions of the scoring (metric_versions)",
    "candidates_sha256": "candidates of open answers (candidates_sha256)",
    "preprocessing": "preprocessing of the images",
    "version": "version of the receipt",
}
_MADE_WITH = (
    "benchmark", "model", "status", "num_items", "num_unanswered", "decoding", "metric_versions",
    "confidence", "items_sha256", "images_sha256", "candidates_sha256",
)  # fmt: skip
_MOST_SHOWN = 70


def without_legacy(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return those metrics whose names mean what they say."""
    return {name: value for name, value in metrics.items() if _split(name)[1] != LEGACY}


def metric_rows(metrics: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return rows of metric, version, percent with interval, number of questions."""
    return [[*_split(name), percent(value), str(value["num"])] for name, value in metrics.items()]


def kind_rows(receipt: Receipt) -> list[list[str]]:
    """Return rows for each type of question: its mean of what papers report, and its number."""
    values: dict[tuple[bool, str], list[float]] = {}
    for line in receipt["items"]:
        value = line["values"].get(_HEADLINES[line["is_closed"]])
        if value is not None:
            values.setdefault((line["is_closed"], line["kind"]), []).append(value)
    return [
        [
            f"{'closed' if is_closed else 'open'} {kind}".strip(),
            _HEADLINES[is_closed],
            f"{100 * sum(found) / len(found):.1f} %",
            str(len(found)),
        ]
        for (is_closed, kind), found in sorted(values.items())
    ]


def made_with_rows(receipt: Receipt) -> list[list[str]]:
    """Return rows of what a run was made with."""
    return [[name, value] for name, value in _made_with(receipt).items()]


def why_not_comparable(first: Receipt, second: Receipt) -> list[str]:
    """Return every field in which two runs cannot be compared, in words; none: they can."""
    reasons = [
        f"{words}: {_short(first.get(name))} and {_short(second.get(name))}"
        for name, words in _MUST_AGREE.items()
        if first.get(name) != second.get(name)
    ]
    for place, receipt in (("first", first), ("second", second)):
        if receipt.get("status") != "complete":
            reasons.append(
                f"questions without an answer: {receipt.get('num_unanswered')} of the {place}; "
                "they count as wrong"
            )
    if first.get("model") == second.get("model"):
        before, after = part(first, "model_facts"), part(second, "model_facts")
        reasons += [
            f"{name} of the model, though both have its name: {_short(before.get(name))} and "
            f"{_short(after.get(name))}"
            for name in dict.fromkeys((*before, *after))
            if before.get(name) != after.get(name)
        ]
    return reasons


def difference_rows(first: Receipt, second: Receipt) -> list[list[str]]:
    """Return rows of metric, version, both scores, second less first, and questions won and lost.

    Questions belong together by their ids.
    """
    others = {line["id"]: line["values"] for line in second["items"]}
    rows: list[list[str]] = []
    before, after = first["metrics"], second["metrics"]
    for name in dict.fromkeys((*before, *after)):
        one, other = before.get(name), after.get(name)
        pairs = [
            (line["values"][name], others[line["id"]][name])
            for line in first["items"]
            if name in line["values"] and name in others.get(line["id"], {})
        ]
        difference = "-"
        if one is not None and other is not None:
            difference = f"{100 * (other['mean'] - one['mean']):+.1f}"
        rows.append([
            *_split(name),
            "-" if one is None else percent(one),
            "-" if other is None else percent(other),
            difference,
            str(sum(y > x for x, y in pairs)),
            str(sum(y < x for x, y in pairs)),
        ])  # fmt: skip
    return rows


def made_with_differences(first: Receipt, second: Receipt) -> list[list[str]]:
    """Return rows of what two runs were made with, where it differs."""
    before, after = _made_with(first), _made_with(second)
    return [
        [name, before.get(name, "-"), after.get(name, "-")]
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    ]


def read_receipt(content: bytes) -> Receipt | None:
    """Return a receipt; None: it is none that this page can read."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    receipt = cast("Receipt", found)
    has_all = isinstance(receipt.get("items"), list) and isinstance(receipt.get("metrics"), dict)
    return receipt if has_all else None


def part(of: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object within another one; empty: it has none of the name."""
    found = of.get(name)
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}


def _made_with(receipt: Receipt) -> dict[str, str]:
    found = {name: receipt.get(name) for name in _MADE_WITH}
    found |= _facts_of_model(receipt)
    found |= {f"images, {place}": ways for place, ways in part(receipt, "preprocessing").items()}
    found |= {f"our {name}": number for name, number in part(receipt, "versions").items()}
    return {name: _text(value) for name, value in found.items() if value not in (None, "", {})}


def _facts_of_model(receipt: Receipt) -> dict[str, Any]:
    told = part(receipt, "model_as_told")
    provenance = part(told, "provenance")
    found: dict[str, Any] = {**part(receipt, "model_facts")}
    found |= {name: told.get(name) for name in ("engine", "context_length")}
    return found | {"versions": provenance.get("versions")}


def _split(name: str) -> tuple[str, str]:
    version, _, metric = name.partition("/")
    return metric, version


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ", ".join(str(each) for each in cast("Sequence[object]", value))
    if isinstance(value, dict):
        pairs = cast("Mapping[str, object]", value).items()
        return ", ".join(f"{name} {_text(each)}" for name, each in pairs)
    return json.dumps(value)


def _short(value: object) -> str:
    text = _text(value) if value is not None else "none"
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."
