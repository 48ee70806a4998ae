"""The report of a run made anew: from its folder, and what is handed in beside it.

Receipts hold no text, so questions and references come from their file, answers and the judge's
words from the run's own files; each is compared with the receipt's hashes. What does *not* live
here: what reports show (`html_report.py`, `judging/report.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation.chat_items import ChatItem, read_chat_items
from evaluation.errors import EvaluationError
from evaluation.html_report import write_report
from evaluation.json_files import records_of
from evaluation.judging.report import JudgedItem, Texts, judged_items, write_judged_report
from evaluation.judging.running import json_hash
from evaluation.receipt import items_hash, read_receipt, text_hash
from evaluation.run_folder import ANSWERS_FILE, EVALUATION, REPLIES_FILE
from evaluation.scoring import Verdict
from evaluation.vqa_items import Item, read_answers, read_items

Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Beside:
    """Files that a run's folder does not hold.

    Args:
        questions: None: questions are shown as they were asked, references are not.
        images: None: none are shown.
        answers: of a judged run whose answers lie elsewhere.
    """

    questions: Path | None = None
    images: Path | None = None
    answers: Path | None = None


def remake(folder: Path, beside: Beside, report: Path) -> list[Row]:
    """Write a run's report; returns its questions as rows of a table.

    Raises:
        EvaluationError: the run has no receipt yet, or files are not those of the run.
    """
    receipt = read_receipt(folder)
    kept = folder / ANSWERS_FILE
    file = beside.answers or (kept if kept.is_file() else None)
    answers = {} if file is None else read_answers(file)
    _check_answers(receipt, answers, file)
    asked = {} if file is None else _questions_in(file)
    if receipt["kind"] == EVALUATION:
        verdicts = _verdicts(receipt, beside.questions, asked, answers)
        write_report(report, receipt, verdicts, beside.images)
        return [_row(verdict) for verdict in verdicts]
    texts = Texts(_chat_items(receipt, beside.questions), answers, asked)
    replies = {str(r["judgement_id"]): r for _, r in records_of(folder / REPLIES_FILE)}
    write_judged_report(report, receipt, replies, texts, beside.images)
    return [_judged_row(item) for item in judged_items(receipt, replies, texts)]


def _check_answers(
    receipt: Mapping[str, Any], answers: Mapping[str, str], file: Path | None
) -> None:
    """Refuse answers other than those that the receipt is about."""
    if file is None:
        return
    for line in receipt["items"]:
        said = answers.get(line["id"])
        if line["answer_sha256"] != (None if said is None else text_hash(said)):
            raise EvaluationError(
                f"{file}: the answer to question {line['id']!r} is not the one of the receipt"
            )


def _questions_in(answers: Path) -> dict[str, str]:
    """Return the questions that stand beside their answers, by id."""
    return {
        str(record["question_id"]): str(record["prompt"])
        for _, record in records_of(answers)
        if "prompt" in record
    }


def _verdicts(
    receipt: Mapping[str, Any],
    file: Path | None,
    asked: Mapping[str, str],
    answers: Mapping[str, str],
) -> list[Verdict]:
    """Return the receipt's questions with their values, as the receipt has both."""
    items: dict[str, Item] = {}
    if file is not None:
        names = {line["id"] for line in receipt["items"]}
        items = {item.id: item for item in read_items(file) if item.id in names}
        _check_items(file, items_hash(list(items.values())), receipt)
    return [
        Verdict(
            items.get(line["id"]) or _item(line, asked.get(line["id"], "")),
            answers.get(line["id"]),
            line["values"],
        )
        for line in receipt["items"]
    ]


def _item(line: Mapping[str, Any], question: str) -> Item:
    """Return a question of which no reference is at hand."""
    return Item(
        line["id"], line["image"], line["is_closed"], line["kind"], question, "(not at hand)"
    )


def _chat_items(receipt: Mapping[str, Any], file: Path | None) -> dict[str, ChatItem]:
    if file is None:
        return {}
    names = {line["id"] for line in receipt["items"]}
    items = {item.id: item for item in read_chat_items(file) if item.id in names}
    _check_items(file, json_hash([asdict(item) for item in items.values()]), receipt)
    return items


def _check_items(file: Path, found: str, receipt: Mapping[str, Any]) -> None:
    if found != receipt["items_sha256"]:
        raise EvaluationError(f"{file} does not hold the questions of this run")


def _row(verdict: Verdict) -> Row:
    item = verdict.item
    return {
        "id": item.id,
        "image": item.image,
        "answer_type": "CLOSED" if item.is_closed else "OPEN",
        "question_type": item.kind,
        "question": item.question,
        "reference": item.reference,
        "answer": verdict.said,
        **verdict.values,
    }


def _judged_row(item: JudgedItem) -> Row:
    said: Sequence[str] = [f"{opinion.order}: {opinion.words}" for opinion in item.opinions]
    return {
        "id": item.id,
        "image": item.image,
        "type": item.type,
        "domains": " ".join(item.domains),
        "question": item.question,
        "reference": item.stored,
        "answer": item.answer,
        "reference_score": item.reference,
        "model_score": item.model,
        "judge": "\n".join(said),
    }
