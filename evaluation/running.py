"""One evaluation from questions to receipt and report.

What does *not* live here: options and words for the user (`command.py`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation.answering import Decoding, Respondent, in_order_of_images
from evaluation.errors import EvaluationError
from evaluation.html_report import write_report
from evaluation.item_images import read_file
from evaluation.model_facts import deciding_facts
from evaluation.preprocessing import preprocessing_in
from evaluation.progress import AskingProgress
from evaluation.receipt import candidates_hash, images_hash, items_hash, receipt_of, versions
from evaluation.run_folder import ANSWERS_FILE, EVALUATION, RECEIPT_FILE, REPORT_FILE
from evaluation.scoring import Scores, score
from evaluation.vqa_items import Item, read_answers
from modeling.durable_files import write_json
from services.endpoint_client.asking_all import Asking, ask_all
from services.endpoint_client.client import EndpointClient
from services.endpoint_client.record_file import RecordFile


@dataclass(frozen=True, slots=True)
class Questions:
    """What is asked.

    Args:
        benchmark: its name, with the split.
        images: folder of their images.
        candidates: of open answers, for `legacy-v1`'s candidate accuracy.
    """

    benchmark: str
    items: Sequence[Item]
    images: Path
    candidates: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """A run that came to its end.

    Args:
        failed: reason by question id.
    """

    scores: Scores
    failed: Mapping[str, str]


def identity_of(
    questions: Questions, model: str, model_as_told: Mapping[str, Any], decoding: Decoding
) -> dict[str, Any]:
    """Return what decides the answers, as JSON; all images are read for it.

    Args:
        model_as_told: what the endpoint says of the model.
    """
    return {
        "kind": EVALUATION,
        "benchmark": questions.benchmark,
        "items_sha256": items_hash(questions.items),
        "images_sha256": _images_hash(questions),
        "model": model,
        "model_facts": deciding_facts(model_as_told),
        "decoding": asdict(decoding),
    }


async def ask(
    questions: Questions,
    client: EndpointClient,
    decoding: Decoding,
    answers: Path,
    *,
    at_once: int,
) -> Mapping[str, str]:
    """Ask what has no answer in a file yet; returns why questions still have none, by their ids.

    Raises:
        EndpointError, RecordFileError, OSError: nothing more can be asked, or kept.
    """
    respondent = Respondent(client, questions.images, decoding)
    with RecordFile(answers, "question_id") as kept:
        _refuse_another_model(kept, answers, client.endpoint.model)
        known = {item.id for item in questions.items}
        done = sum(name in known for name in kept.records)
        with AskingProgress(len(questions.items), done) as progress:
            asked = in_order_of_images(questions.items)
            asking = Asking(respondent.ask, at_once, (EvaluationError,))
            return await ask_all(asked, asking, kept, progress)


def finish(
    questions: Questions,
    identity: Mapping[str, Any],
    model_as_told: Mapping[str, Any],
    folder: Path,
    failed: Mapping[str, str],
) -> Done:
    """Score a run's answers; write receipt and report.

    Args:
        model_as_told: what the endpoint says of the model.
    """
    answers = folder / ANSWERS_FILE
    scores = score(questions.items, read_answers(answers), questions.candidates)
    facts = {
        **identity,
        "model_as_told": dict(model_as_told),
        "candidates_sha256": candidates_hash(questions.candidates),
        "versions": versions(),
        "preprocessing": preprocessing_in(answers),
        "failed": dict(failed),
    }
    receipt = receipt_of(facts, scores)
    write_json(folder / RECEIPT_FILE, receipt)
    write_report(folder / REPORT_FILE, receipt, scores.verdicts, questions.images)
    return Done(scores, failed)


def _refuse_another_model(kept: RecordFile, answers: Path, model: str) -> None:
    found = {str(record.get("model_id", model)) for record in kept.records.values()} - {model}
    if found:
        raise EvaluationError(
            f"{answers} holds answers of {min(found)!r}, and {model!r} would be added; take "
            "another file"
        )


def _images_hash(questions: Questions) -> str:
    """Return a hash of what the images' files hold; one that cannot be read counts as such."""
    hashes: dict[str, str] = {}
    for name in {item.image for item in questions.items if item.image is not None}:
        try:
            content = read_file(questions.images, name)
        except EvaluationError:
            hashes[name] = "-"
        else:
            hashes[name] = hashlib.sha256(content).hexdigest()
    return images_hash(hashes)
