"""The scores of an evaluation whose questions are asked: the receipt that a local run makes, too.

It loads the packages of the extra `evaluation`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any, cast

from evaluation.answering import Decoding
from evaluation.jobs.evaluation_kind import item_of
from evaluation.jobs.office import Office
from evaluation.model_facts import deciding_facts
from evaluation.preprocessing import preprocessing_of
from evaluation.receipt import candidates_hash, images_hash, items_hash, receipt_of, versions
from evaluation.run_folder import EVALUATION
from evaluation.scoring import Scores, score
from evaluation.vqa_items import Item
from services.protocol.batch_lines import raw_lines
from services.protocol.evaluation_lines import EvaluationImage, read_evaluation_line
from services.store.models import JobRow


@dataclass(frozen=True, slots=True)
class Asked:
    """What an input holds.

    Args:
        image_hashes: SHA-256 of images' files, by name.
    """

    items: list[Item]
    image_hashes: dict[str, str]


def read_asked(office: Office, key: str) -> Asked:
    """Read an input once more."""
    asked = Asked([], {})
    file: IO[bytes]
    with office.files.open(key) as file:
        for raw in raw_lines(cast("Any", file)):
            line = read_evaluation_line(raw.content, raw.number)
            if isinstance(line, EvaluationImage):
                asked.image_hashes[line.name] = line.sha256
            else:
                asked.items.append(item_of(line))
    return asked


def receipt_for(
    job: JobRow, asked: Asked, answers: Sequence[Mapping[str, Any]], told: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the receipt.

    Args:
        answers: the lines of the output.
        told: what the gateway says of the model.
    """
    scores = _scores(job, asked.items, answers)
    candidates = job.spec.get("candidates")
    facts = {
        "kind": EVALUATION,
        "benchmark": job.spec["benchmark"],
        "items_sha256": items_hash(asked.items),
        "images_sha256": images_hash(asked.image_hashes),
        "model": job.model,
        "model_facts": deciding_facts(told),
        "decoding": Decoding(**job.spec["decoding"]).fields,
        "model_as_told": dict(told),
        "candidates_sha256": candidates_hash(candidates),
        "versions": versions(),
        "preprocessing": preprocessing_of(answers),
        "failed": {},
    }
    return receipt_of(facts, scores)


def partial_result(
    job: JobRow, items: Sequence[Item], answers: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what a job tells of the questions that are done, while it goes on."""
    scores = _scores(job, items, answers)
    return {
        "status": "partial",
        "num_unanswered": scores.num_unanswered,
        "metrics": {name: asdict(value) for name, value in scores.estimates.items()},
    }


def read_answers(office: Office, key: str | None) -> list[dict[str, Any]]:
    """Return the lines of an output."""
    if key is None:
        return []
    file: IO[bytes]
    with office.files.open(key) as file:
        return [json.loads(line) for line in file]


def _scores(job: JobRow, items: Sequence[Item], answers: Sequence[Mapping[str, Any]]) -> Scores:
    said = {str(record["question_id"]): str(record["text"]) for record in answers}
    return score(items, said, job.spec.get("candidates"))
