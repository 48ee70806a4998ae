"""Asks a judge for scores of every answer, in one order or both, and keeps each reply at once.

A reply that holds no two scores is kept as it is, asked for again a few times with another seed,
and never replaced: the question is then unscored. What does *not* live here: the wording
(`prompt.py`), what scores come to (`summary.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evaluation.chat_items import ChatItem
from evaluation.errors import EvaluationError
from evaluation.judging.prompt import judge_messages
from evaluation.judging.reply import scores_in
from evaluation.judging.summary import Scored
from evaluation.receipt import text_hash
from services.endpoint_client.asking_all import Asking, ask_all
from services.endpoint_client.budget import Budget, Prices, TooExpensiveError, about_tokens
from services.endpoint_client.client import EndpointClient, Reply
from services.endpoint_client.record_file import RecordFile

_REPLY_TOKENS = 200
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Judgement:
    """One question to the judge.

    Args:
        is_swapped: the model's answer comes first.
    """

    item: ChatItem
    answer: str
    is_swapped: bool

    @property
    def id(self) -> str:
        """Of its record."""
        return f"{self.item.id}/{'swapped' if self.is_swapped else 'straight'}"

    @property
    def answer_sha256(self) -> str:
        """Of the model's answer."""
        return text_hash(self.answer)

    @property
    def messages(self) -> Sequence[Mapping[str, str]]:
        """What is sent."""
        pair = self.item.reference, self.answer
        return judge_messages(self.item, *(pair[::-1] if self.is_swapped else pair))

    @property
    def texts(self) -> Sequence[str]:
        """All of it that does not stand in our wording."""
        item = self.item
        return (item.question, item.reference, self.answer, item.caption, *item.mentions)

    @property
    def prompt_tokens(self) -> float:
        """An estimate."""
        return about_tokens(self.messages)


def judgements_of(
    items: Sequence[ChatItem], answers: Mapping[str, str], *, in_both_orders: bool
) -> list[Judgement]:
    """Return what is to be asked; questions without an answer are left out, and stay unscored."""
    orders = (False, True) if in_both_orders else (False,)
    return [
        Judgement(item, answers[item.id], is_swapped)
        for item in items
        if item.id in answers
        for is_swapped in orders
    ]


def estimated_cost(asked: Sequence[Judgement], prices: Prices) -> float:
    """Return about what all of it costs, once each."""
    return sum(prices.cost(each.prompt_tokens, _REPLY_TOKENS) for each in asked)


@dataclass(slots=True)
class Judge:
    """A model that is asked for scores.

    Args:
        budget: its `spent` counts earlier calls, too.
    """

    client: EndpointClient
    seed: int
    max_tokens: int
    budget: Budget

    async def ask(self, judgement: Judgement) -> dict[str, object]:
        """Return the record of a reply, scored or not.

        Raises:
            EndpointError: there is none.
            TooExpensiveError: it might cost too much.
        """
        reply: Reply | None = None
        scores = None
        for attempt in range(_TRIES):
            settings = {
                "temperature": 0.0 if attempt == 0 else 0.7,
                "seed": self.seed + attempt,
                "max_tokens": self.max_tokens,
            }
            with self.budget.staked(judgement.messages, self.max_tokens) as stake:
                reply = await self.client.complete(judgement.messages, settings)
                stake.answered(reply)
            if (scores := scores_in(reply.text)) is not None:
                break
        assert reply is not None  # noqa: S101 (it is asked at least once)
        return {
            "judgement_id": judgement.id,
            "question_id": judgement.item.id,
            "is_swapped": judgement.is_swapped,
            "answer_sha256": judgement.answer_sha256,
            "result": reply.text,
            "scores": None if scores is None else list(scores),
            "judge": self.client.endpoint.model,
            "spent": self.budget.spent,
        }


async def judge_all(
    asked: Sequence[Judgement],
    judge: Judge,
    kept: RecordFile,
    advance: Callable[[Judgement, Mapping[str, object] | None], None],
    *,
    at_once: int,
) -> Mapping[str, str]:
    """Ask all that has no reply yet; returns why the others have none, by their ids.

    Raises:
        EvaluationError: what is kept is of other answers.
        EndpointError, OSError: nothing more can be asked, or kept.
    """
    for each in asked:
        record = kept.records.get(each.id)
        if record is not None and record.get("answer_sha256") != each.answer_sha256:
            raise EvaluationError(
                f"the judge has scored another answer to question {each.item.id!r} than the one "
                "that is there now; begin anew with --new-run"
            )
    judge.budget.spent = max(
        (float(str(r.get("spent", 0.0))) for r in kept.records.values()), default=0.0
    )
    asking = Asking(judge.ask, at_once, (EvaluationError, TooExpensiveError))
    return await ask_all(asked, asking, kept, advance)


def scored_of(
    items: Sequence[ChatItem], kept: Mapping[str, Mapping[str, object]], *, in_both_orders: bool
) -> list[Scored]:
    """Return the questions that have scores in all orders that were asked for."""
    found: list[Scored] = []
    for item in items:
        pairs: list[tuple[float, float]] = []
        for order in ("straight", "swapped") if in_both_orders else ("straight",):
            record = kept.get(f"{item.id}/{order}")
            scores = None if record is None else scores_in(str(record["result"]))
            if scores is not None:
                first, second = scores
                pairs.append((second, first) if order == "swapped" else (first, second))
        if len(pairs) == 1 + in_both_orders:
            reference, model = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
            found.append(Scored(item, reference, model))
    return found
