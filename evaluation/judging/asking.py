"""Asks a judge for scores of every answer, in one order or both, and keeps each reply at once.

A reply that holds no two scores is kept as it is, asked for again a few times with another seed,
and never replaced: the question is then unscored. What does *not* live here: the wording
(`prompt.py`), what scores come to (`summary.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from evaluation.asking_all import ask_all
from evaluation.chat_items import ChatItem
from evaluation.errors import EvaluationError
from evaluation.judging.prompt import judge_messages
from evaluation.judging.reply import scores_in
from evaluation.judging.summary import Scored
from evaluation.receipt import text_hash
from services.endpoint_client.client import EndpointClient, Reply
from services.endpoint_client.record_file import RecordFile

_CHARS_PER_TOKEN = 4.0  # of English text, about; a reply's real usage is counted afterwards
_REPLY_TOKENS = 200
_TRIES = 3


class TooExpensiveError(EvaluationError):
    """The next question could cost more than is allowed; those in flight are waited for."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What an endpoint charges, in any currency, for a million tokens."""

    prompt: float = 0.0
    completion: float = 0.0

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return the price of so many tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


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
        return sum(len(message["content"]) for message in self.messages) / _CHARS_PER_TOKEN

    @property
    def most_prompt_tokens(self) -> int:
        """A bound: no token is shorter than a byte."""
        return sum(len(m["content"].encode(errors="replace")) for m in self.messages)


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
        most_cost: no question is sent that may bring the sum above it; None: no limit.
        spent: so far, earlier calls included.
    """

    client: EndpointClient
    seed: int
    max_tokens: int
    prices: Prices
    most_cost: float | None = None
    spent: float = 0.0
    _at_stake: float = field(default=0.0, init=False)
    """Of what is in flight, at most."""

    async def ask(self, judgement: Judgement) -> dict[str, object]:
        """Return the record of a reply, scored or not.

        Raises:
            EndpointError: there is none.
            TooExpensiveError: it might cost too much.
        """
        reply: Reply | None = None
        scores = None
        for attempt in range(_TRIES):
            stake = self._stake_of(judgement)
            settings = {
                "temperature": 0.0 if attempt == 0 else 0.7,
                "seed": self.seed + attempt,
                "max_tokens": self.max_tokens,
            }
            self._at_stake += stake
            try:
                reply = await self.client.complete(judgement.messages, settings)
            finally:
                self._at_stake -= stake
            told = self.prices.cost(reply.prompt_tokens, reply.completion_tokens)
            self.spent += told if reply.prompt_tokens else stake  # some do not tell
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
            "spent": self.spent,
        }

    def _stake_of(self, judgement: Judgement) -> float:
        """Return what a question may cost; raises TooExpensiveError."""
        stake = self.prices.cost(judgement.most_prompt_tokens, self.max_tokens)
        if self.most_cost is not None and self.spent + self._at_stake + stake > self.most_cost:
            raise TooExpensiveError(
                f"more than --most-cost {self.most_cost:g} might be spent; the same command with a "
                "higher one goes on"
            )
        return stake


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
    judge.spent = max((float(str(r.get("spent", 0.0))) for r in kept.records.values()), default=0.0)
    return await ask_all(asked, judge.ask, kept, advance, at_once=at_once)


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
