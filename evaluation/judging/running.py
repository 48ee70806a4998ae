"""One judged evaluation: the questions to the judge, the receipt, the report.

What does *not* live here: options and words for the user (`evaluation/judge_command.py`), asking
the model whose answers are judged (`evaluation/running.py`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evaluation.answering import why_failed
from evaluation.chat_items import ChatItem
from evaluation.errors import EvaluationError
from evaluation.judging import prompt
from evaluation.judging.addressing import addressing_judge
from evaluation.judging.asking import Judge, Judgement, judge_all, judgements_of, scored_of
from evaluation.judging.report import Texts, write_judged_report
from evaluation.judging.summary import Group, Scored, as_json, summarise
from evaluation.receipt import CONFIDENCE, VERSION, text_hash
from evaluation.run_folder import RECEIPT_FILE, REPLIES_FILE, REPORT_FILE
from modeling.durable_files import write_json
from services.endpoint_client.identifiers import suspicions
from services.endpoint_client.record_file import RecordFile


@dataclass(frozen=True, slots=True)
class JudgedRun:
    """What is judged.

    Args:
        folder: of the run; its `run.json` is there.
        facts: for the receipt: the run's identity, and what else is known of the answers.
        answers: by the questions' ids; those without one stay unscored.
        images: folder of the questions' images, for the report; None: it shows none.
    """

    folder: Path
    facts: Mapping[str, Any]
    items: Sequence[ChatItem]
    answers: Mapping[str, str]
    in_both_orders: bool
    images: Path | None = None

    @property
    def asked(self) -> list[Judgement]:
        """All questions to the judge."""
        return judgements_of(self.items, self.answers, in_both_orders=self.in_both_orders)


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of it.

    Args:
        num_addressing: answers that seem to tell the judge what to do.
        why: what kept the judge from being asked; empty: nothing did.
    """

    groups: Mapping[str, Mapping[str, Group]]
    num_unscored: int
    num_addressing: int
    why: str


def check_texts(asked: Sequence[Judgement], url: str) -> None:
    """Refuse texts that seem to name a patient; raises EvaluationError."""
    texts = [(each.item.id, text) for each in asked for text in each.texts]
    if found := suspicions(texts):
        kinds = "; ".join(
            f"{what} in {len(set(ids))}, such as {ids[0]}" for what, ids in found.items()
        )
        raise EvaluationError(
            f"texts of these questions seem to name a patient: {kinds}; look at them before they "
            f"go to {url}, then add --allow-suspected"
        )


def judging_identity(
    items: Sequence[ChatItem], judge: Judge, *, in_both_orders: bool
) -> dict[str, Any]:
    """Return what decides the scores beside the answers, as JSON."""
    return {
        "benchmark": "chat",
        "items_sha256": json_hash([asdict(item) for item in items]),
        "judge": judge.client.endpoint.model,
        "prompt": prompt.VERSION,
        "prompt_sha256": prompt.prompt_hash(),
        "judge_decoding": {"seed": judge.seed, "max_tokens": judge.max_tokens},
        "in_both_orders": in_both_orders,
    }


async def judge_run(run: JudgedRun, judge: Judge, *, at_once: int) -> Judged:
    """Ask what has no reply yet, write the receipt and the report.

    Raises:
        EvaluationError: the folder has scores of other answers.
        EndpointError, RecordFileError, OSError: nothing more can be asked, or kept.
    """
    with RecordFile(run.folder / REPLIES_FILE, "judgement_id") as kept:
        why = await _ask(run.asked, judge, kept, at_once)
        replies = dict(kept.records)
    scored = scored_of(run.items, replies, in_both_orders=run.in_both_orders)
    groups = summarise(scored) if scored else {}
    receipt = _receipt(run, scored, groups, judge.spent)
    write_json(run.folder / RECEIPT_FILE, receipt)
    texts = Texts({item.id: item for item in run.items}, run.answers)
    write_judged_report(run.folder / REPORT_FILE, receipt, replies, texts, run.images)
    return Judged(groups, len(receipt["unscored"]), len(receipt["addressing_judge"]), why)


def _receipt(
    run: JudgedRun,
    scored: Sequence[Scored],
    groups: Mapping[str, Mapping[str, Group]],
    spent: float,
) -> dict[str, Any]:
    by_id = {each.item.id: each for each in scored}
    unscored = sorted(item.id for item in run.items if item.id not in by_id)
    return {
        "version": VERSION,
        "status": "incomplete" if unscored else "complete",
        **run.facts,
        "answers_sha256": json_hash(
            [[item.id, run.answers[item.id]] for item in run.items if item.id in run.answers]
        ),
        "versions": {name: version(name) for name in ("galen", "numpy", "openai")},
        "num_items": len(run.items),
        "unscored": unscored,
        "addressing_judge": addressing_judge({i.id: run.answers.get(i.id, "") for i in run.items}),
        "spent": spent,
        "confidence": CONFIDENCE,
        "metrics": as_json(groups),
        "items": [_line(item, run.answers.get(item.id), by_id.get(item.id)) for item in run.items],
    }


def _line(item: ChatItem, answer: str | None, scored: Scored | None) -> dict[str, Any]:
    """Return what is kept of a question: no text."""
    return {
        "id": item.id,
        "image": item.image,
        "type": item.type,
        "domains": list(item.domains),
        "answer_sha256": None if answer is None else text_hash(answer),
        "reference": None if scored is None else scored.reference,
        "model": None if scored is None else scored.model,
    }


async def _ask(asked: Sequence[Judgement], judge: Judge, kept: RecordFile, at_once: int) -> str:
    """Return why not everything was asked; empty: it was."""
    console = Console(stderr=True)
    columns = TextColumn("judged"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn()
    done = sum(each.id in kept.records for each in asked)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(asked), completed=done)

        def advance(_: Judgement, __: Mapping[str, object] | None) -> None:
            bar.advance(task)

        failed = await judge_all(asked, judge, kept, advance, at_once=at_once)
    return why_failed(failed) if failed else ""


def json_hash(content: object) -> str:
    """Return a hash of JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
