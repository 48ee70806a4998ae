"""A run in one JSON document: what was asked, of what, how, and what came of it.

Two receipts can be compared where they asked the same questions in the same way; `why_not` says
what differs. What does *not* live here: scores (`scoring.py`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from evaluation.errors import EvaluationError
from evaluation.model_facts import all_facts, changed, deciding_facts
from evaluation.run_folder import EVALUATION, RECEIPT_FILE
from evaluation.scoring import Scores, Verdict
from evaluation.uncertainty import Difference, difference
from evaluation.vqa_items import Item
from services.endpoint_client.identity import short

VERSION = 2
CONFIDENCE = "95 % percentile interval, images resampled"
_MUST_AGREE = ("benchmark", "items_sha256", "images_sha256", "decoding", "metric_versions")
_Receipt = Mapping[str, Any]


def items_hash(items: Sequence[Item]) -> str:
    """Return a hash of ids, questions, references, types and images' names, in any order."""
    lines = sorted(json.dumps(asdict(item), sort_keys=True) for item in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def images_hash(hashes: Mapping[str, str]) -> str:
    """Return a hash of images' files.

    Args:
        hashes: SHA-256 of each, by its name; "-": it cannot be read.
    """
    lines = [f"{name} {hashes[name]}" for name in sorted(hashes)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of what decides a figure."""
    return {name: version(name) for name in ("galen", "nltk", "numpy", "openai")}


def candidates_hash(candidates: Sequence[str] | None) -> str | None:
    """Return a hash of open answers' candidates."""
    if candidates is None:
        return None
    return hashlib.sha256(json.dumps(list(candidates)).encode()).hexdigest()


def text_hash(text: str) -> str:
    """Return a hash of any text, lone surrogates included."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def receipt_of(identity: Mapping[str, Any], scores: Scores) -> dict[str, Any]:
    """Return the document.

    Args:
        identity: what was asked of whom, and how: see `run_identity`.
    """
    return {
        "version": VERSION,
        "status": "incomplete" if scores.num_unanswered else "complete",
        **identity,
        "num_items": len(scores.verdicts),
        "num_unanswered": scores.num_unanswered,
        "confidence": CONFIDENCE,
        "metric_versions": sorted({name.partition("/")[0] for name in scores.estimates}),
        "metrics": {name: asdict(value) for name, value in scores.estimates.items()},
        "items": [_line(verdict) for verdict in scores.verdicts],
    }


def read_receipt(path: Path) -> _Receipt:
    """Return a receipt of any kind, given its file or its run's folder.

    Raises:
        EvaluationError: it is none.
    """
    file = path / RECEIPT_FILE if path.is_dir() else path
    try:
        found = json.loads(file.read_text("utf-8"))
    except OSError as error:
        hint = "; a run that was stopped has none until its command has gone on to the end"
        why = f"{file} cannot be read: {error.strerror}"
        raise EvaluationError(why + (hint if path.is_dir() else "")) from error
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{file} is no receipt: no JSON") from error
    if not isinstance(found, dict) or cast("_Receipt", found).get("version") != VERSION:
        raise EvaluationError(f"{file} is no receipt of version {VERSION}")
    return cast("_Receipt", found)


def why_not(first: _Receipt, second: _Receipt, *, is_changed_model: bool = False) -> list[str]:
    """Return why two runs cannot be compared, a reason each; none: they can.

    Args:
        is_changed_model: what differs of a model of one name is what is to be compared.
    """
    kinds = {str(receipt.get("kind")) for receipt in (first, second)} - {EVALUATION}
    if kinds:
        return [f"one is the receipt of a {min(kinds)}, and only evaluations are compared"]
    reasons = [
        f"{key} differ: {short(first.get(key))} and {short(second.get(key))}"
        for key in _MUST_AGREE
        if first.get(key) != second.get(key)
    ]
    for name, receipt in (("first", first), ("second", second)):
        if receipt.get("status") != "complete":
            reasons.append(f"the {name} is incomplete: {receipt['num_unanswered']} unanswered")
    candidates = {receipt.get("candidates_sha256") for receipt in (first, second)} - {None}
    if len(candidates) > 1:
        reasons.append("they chose among other --candidates")
    if first.get("model") == second.get("model") and not is_changed_model:
        told = [deciding_facts(receipt.get("model_as_told", {})) for receipt in (first, second)]
        if others := changed(*told):
            reasons.append(
                f"both name the model {first.get('model')!r}, but its {', '.join(others)} is "
                "another; add --changed-model if that change is what you compare"
            )
    return reasons


def what_differs(first: _Receipt, second: _Receipt) -> dict[str, tuple[Any, Any]]:
    """Return what comparable runs differ in beside their answers, by name."""
    facts = [
        {"model": receipt.get("model"), **all_facts(receipt.get("model_as_told", {}))}
        | {f"our {name}": number for name, number in receipt.get("versions", {}).items()}
        | {
            f"images, {place}": ", ".join(ways)
            for place, ways in receipt.get("preprocessing", {}).items()
        }
        for receipt in (first, second)
    ]
    return changed(*facts)


def compare(
    first: _Receipt, second: _Receipt, *, is_changed_model: bool = False
) -> dict[str, Difference]:
    """Return second less first for each metric that both have.

    Args:
        is_changed_model: as in `why_not`.

    Raises:
        EvaluationError: they are not comparable; the message says why.
    """
    if reasons := why_not(first, second, is_changed_model=is_changed_model):
        raise EvaluationError(f"these runs are not comparable: {'; '.join(reasons)}")
    others = {line["id"]: line["values"] for line in second["items"]}
    found: dict[str, Difference] = {}
    for metric in first["metrics"]:
        pairs = [
            (line["values"][metric], others[line["id"]][metric], line["image"] or line["id"])
            for line in first["items"]
            if metric in line["values"] and metric in others[line["id"]]
        ]
        if pairs:
            before, after, images = zip(*pairs, strict=True)
            found[metric] = difference(before, after, images)
    return found


def _line(verdict: Verdict) -> dict[str, Any]:
    """Return what is kept of a question: no text, so that a receipt may be shown."""
    item = verdict.item
    return {
        "id": item.id,
        "image": item.image,
        "kind": item.kind,
        "is_closed": item.is_closed,
        "answer_sha256": None if verdict.said is None else text_hash(verdict.said),
        "values": dict(verdict.values),
    }
