"""The judged medical chat from questions to report: the model is asked, then the judge.

What does *not* live here: options and words for the user (`chat_command.py`), each of the two
(`running.py`, `judging/running.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.answering import Decoding
from evaluation.chat_items import ChatItem
from evaluation.judging.asking import Judge, Judgement
from evaluation.judging.running import Judged, JudgedRun, judge_run, judging_identity
from evaluation.preprocessing import preprocessing_in
from evaluation.run_folder import ANSWERS_FILE, CHAT, open_run
from evaluation.running import Questions, ask, identity_of
from evaluation.vqa_items import read_answers
from modeling.tool_errors import say
from services.endpoint_client.client import EndpointClient


@dataclass(frozen=True, slots=True)
class ChatRun:
    """What is asked, how, and where it is kept.

    Args:
        images: folder of the questions' images.
        in_both_orders: the judge sees either answer first.
    """

    folder: Path
    items: Sequence[ChatItem]
    images: Path
    decoding: Decoding
    in_both_orders: bool

    @property
    def foreseen(self) -> list[Judgement]:
        """About what the judge will get: while there are no answers, references stand for them."""
        references = {item.id: item.reference for item in self.items}
        return JudgedRun(self.folder, {}, self.items, references, self.in_both_orders).asked


@dataclass(frozen=True, slots=True)
class ChatDone:
    """What came of it.

    Args:
        failed: why the model gave no answer, by question id.
    """

    judged: Judged
    failed: Mapping[str, str]


async def answer_and_judge(
    run: ChatRun,
    client: EndpointClient,
    judge: Judge,
    before_judging: Callable[[Sequence[Judgement]], None],
    *,
    at_once: int,
    is_new: bool,
) -> ChatDone:
    """Ask what has no answer, then the judge what has no scores; write receipt and report.

    Answers are only ever added to a folder, so scores of an earlier call stay those of its answers.

    Args:
        before_judging: is told all that the judge gets; what it raises ends the run before that.

    Raises:
        OtherRunError: the folder holds other questions, or another model's answers or judge's
            scores.
        EndpointError, RecordFileError, OSError: nothing more can be asked, or kept.
    """
    questions = Questions("chat", [item.asked for item in run.items], run.images)
    told = await client.model_as_told()
    identity: dict[str, Any] = {
        **identity_of(questions, client.endpoint.model, told, run.decoding),
        **judging_identity(run.items, judge, in_both_orders=run.in_both_orders),
        "kind": CHAT,
    }
    if open_run(run.folder, identity, is_new=is_new):
        say(f"{run.folder} is there; what it has is not asked again")
    answers = run.folder / ANSWERS_FILE
    failed = await ask(questions, client, run.decoding, answers, at_once=at_once)
    facts = {
        **identity,
        "model_as_told": told,
        "preprocessing": preprocessing_in(answers),
        "failed": dict(failed),
    }
    said = read_answers(answers)
    judged = JudgedRun(run.folder, facts, run.items, said, run.in_both_orders, run.images)
    before_judging(judged.asked)
    return ChatDone(await judge_run(judged, judge, at_once=at_once), failed)
