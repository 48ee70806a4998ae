"""Receipts as `evaluation` makes them, and evaluations as the gateway tells of them."""

from typing import Any

import msgspec

from evaluation.receipt import receipt_of
from evaluation.scoring import score
from evaluation.vqa_items import Item
from services.gateway.job_schemas import Evaluation, RequestCounts

ITEMS = [
    *(Item(f"c{n}", f"{n}.png", True, "PRES", "q", "yes") for n in range(4)),
    *(Item(f"o{n}", f"{n}.png", False, "ORGAN", "q", "left lung") for n in range(4)),
]
RIGHT = {item.id: item.reference for item in ITEMS}


def receipt(answers: dict[str, str] | None = None, **changed: Any) -> dict[str, Any]:
    """Return the receipt of a run; `changed` are facts of it."""
    facts = {
        "kind": "evaluation",
        "benchmark": "b/test",
        "items_sha256": "11",
        "images_sha256": "22",
        "model": "m",
        "model_facts": {"checkpoint_fingerprint": "33"},
        "decoding": {"temperature": 0.0, "seed": 0},
        "model_as_told": {"engine": "e", "provenance": {"versions": {"torch": "2"}}},
        "candidates_sha256": None,
        "versions": {"galen": "1"},
        "preprocessing": {"here": {"as it is": 8}, "endpoint": {"default@1/ab": 8}},
        "failed": {},
    }
    return receipt_of({**facts, **changed}, score(ITEMS, RIGHT if answers is None else answers))


def told(status: str = "in_progress", **changed: Any) -> dict[str, Any]:
    """Return an evaluation of 32 questions of which 8 are done; `changed` are fields of it."""
    evaluation = Evaluation(
        id="eval_0123456789ab",
        benchmark="b/test",
        model="m",
        decoding={},
        input_file_id="file-1",
        status=status,
        created_at=1_000,
        expires_at=90_000,
        request_counts=RequestCounts(32, 7, 1),
    )
    return {**msgspec.to_builtins(evaluation), **changed}
