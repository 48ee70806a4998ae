"""One judged evaluation: the folder, the questions to the judge, the receipt.

What does *not* live here: options and words for the user (`evaluation/command.py`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evaluation.answering import why_failed
from evaluation.chat_items import ChatItem
from evaluation.errors import EvaluationError
from evaluation.judging import prompt
from evaluation.judging.asking import Judge, Judgement, judge_all, scored_of
from evaluation.judging.identifiers import suspicions
from evaluation.judging.summary import Group, as_json, summarise
from evaluation.run_folder import JUDGEMENT, RECEIPT_FILE, REPLIES_FILE, open_run
from modeling.durable_files import write_json
from services.endpoint_client.record_file import RecordFile


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of it.

    Args:
        why: what kept the judge from being asked; empty: nothing did.
    """

    groups: Mapping[str, Mapping[str, Group]]
    num_unscored: int
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


async def judge_run(
    items: Sequence[ChatItem],
    asked: Sequence[Judgement],
    judge: Judge,
    folder: Path,
    *,
    at_once: int,
    is_new: bool,
) -> Judged:
    """Ask what has no reply yet, and write the receipt.

    Raises:
        OtherRunError: the folder holds other questions, answers, or another judge's scores.
        EndpointError, RecordFileError, OSError: nothing more can be asked, or kept.
    """
    in_both_orders = any(each.is_swapped for each in asked)
    identity = {
        "kind": JUDGEMENT,
        "benchmark": "chat",
        "items_sha256": _hash([asdict(item) for item in items]),
        "answers_sha256": _hash([[each.item.id, each.answer] for each in asked]),
        "judge": judge.client.endpoint.model,
        "prompt": prompt.VERSION,
        "prompt_sha256": prompt.prompt_hash(),
        "decoding": {"seed": judge.seed, "max_tokens": judge.max_tokens},
        "in_both_orders": in_both_orders,
    }
    open_run(folder, identity, is_new=is_new)
    with RecordFile(folder / REPLIES_FILE, "judgement_id") as kept:
        why = await _ask(asked, judge, kept, at_once)
        scored = scored_of(items, kept.records, in_both_orders=in_both_orders)
    groups = summarise(scored) if scored else {}
    unscored = sorted({item.id for item in items} - {each.item.id for each in scored})
    receipt = {
        "version": 1,
        "status": "incomplete" if unscored else "complete",
        **identity,
        "versions": {name: version(name) for name in ("galen", "openai")},
        "num_items": len(items),
        "unscored": unscored,
        "spent": judge.spent,
        "metrics": as_json(groups),
        "items": [
            {"id": each.item.id, "reference": each.reference, "model": each.model}
            for each in scored
        ],
    }
    write_json(folder / RECEIPT_FILE, receipt)
    return Judged(groups, len(unscored), why)


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


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
