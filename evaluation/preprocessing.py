"""How a run's images became what the model saw, so far as it was told: fingerprints with counts.

Two places make pixels: this program, of DICOM and NIfTI files, which are sent as PNG, and the
endpoint, of what was sent. Galen's gateway says by what in a header of each answer; others say
nothing. What does *not* live here: what a fingerprint is made of (`modeling.medical_images`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from evaluation.json_files import records_of

NOT_TOLD = "not told"
AS_IT_IS = "as it is"


def preprocessing_in(answers: Path) -> dict[str, dict[str, int]]:
    """Return the same of a file of answers; raises EvaluationError."""
    return preprocessing_of(record for _, record in records_of(answers))


def preprocessing_of(records: Iterable[Mapping[str, object]]) -> dict[str, dict[str, int]]:
    """Return how often each way occurs among answers to questions with an image.

    `here` has what this program did, `endpoint` what the answers said.
    """
    here, endpoint = Counter[str](), Counter[str]()
    for record in records:
        told = record.get("metadata")
        facts: Mapping[str, object] = {}
        if isinstance(told, dict):
            facts = cast("Mapping[str, object]", told)
        if facts.get("image_sha256") is None:
            continue
        here[str(facts.get("converted_by") or AS_IT_IS)] += 1
        endpoint[str(facts.get("preprocess") or NOT_TOLD)] += 1
    return {"here": _sorted(here), "endpoint": _sorted(endpoint)}


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(counts)}
