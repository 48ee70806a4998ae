"""What answers cost, and a ceiling: nothing is sent that could bring the known cost above it.

What may be spent by requests in flight counts as spent until their answers say what they took. What
an endpoint charges for a request without an answer (a time-out, a kill) is known to it alone.
What does *not* live here: asking (`client.py`).
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from services.endpoint_client.client import Reply

_CHARS_PER_TOKEN = 4.0  # of English text, about; a reply's real usage is counted afterwards


class TooExpensiveError(Exception):
    """The next question could cost more than is allowed; those in flight are waited for."""


@dataclass(frozen=True, slots=True)
class Prices:
    """What an endpoint charges, in any currency, for a million tokens."""

    prompt: float = 0.0
    completion: float = 0.0

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Return the price of so many tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(slots=True)
class Budget:
    """What was spent, and what may be.

    Args:
        most_cost: nothing is sent that may bring the sum above it; None: no limit.
        spent: so far, earlier calls included.
    """

    prices: Prices
    most_cost: float | None = None
    spent: float = 0.0
    _at_stake: float = field(default=0.0, init=False)
    """Of what is in flight, at most."""

    @contextmanager
    def staked(self, messages: Sequence[Mapping[str, Any]], max_tokens: int) -> Generator["Stake"]:
        """Hold back what a request may cost while the context lasts.

        Raises:
            TooExpensiveError: it might cost too much.
        """
        stake = Stake(self, self.hold(messages, max_tokens))
        try:
            yield stake
        finally:
            self.release(stake.most)

    def hold(self, messages: Sequence[Mapping[str, Any]], max_tokens: int) -> float:
        """Hold back what a request may cost until `release`, and return it.

        Raises:
            TooExpensiveError: it might cost too much.
        """
        most = self.most(messages, max_tokens)
        if self.most_cost is not None and self.spent + self._at_stake + most > self.most_cost:
            raise TooExpensiveError(
                f"more than --most-cost {self.most_cost:g} might be spent; the same command with a "
                "higher one goes on"
            )
        self._at_stake += most
        return most

    def most(self, messages: Sequence[Mapping[str, Any]], max_tokens: int) -> float:
        """Return what a request may cost."""
        return self.prices.cost(most_tokens(messages), max_tokens)

    def answered(self, reply: Reply, most: float) -> float:
        """Count what an answer took, and return it.

        Args:
            most: what it may have cost; counted where the endpoint does not tell.
        """
        told = self.prices.cost(reply.prompt_tokens, reply.completion_tokens)
        cost = told if reply.prompt_tokens else most
        self.spent += cost
        return cost

    def release(self, most: float) -> None:
        """Give back what was held; what was held by an earlier call is taken by a negative sum."""
        self._at_stake -= most


@dataclass(frozen=True, slots=True)
class Stake:
    """Of one request.

    Args:
        most: what it may cost.
    """

    budget: Budget
    most: float

    def answered(self, reply: Reply) -> float:
        """Count what an answer took, and return it."""
        return self.budget.answered(reply, self.most)


def about_tokens(messages: Sequence[Mapping[str, Any]]) -> float:
    """Return an estimate of a conversation of texts."""
    return sum(len(message["content"]) for message in messages) / _CHARS_PER_TOKEN


def most_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """Return a bound: no token is shorter than a byte."""
    return sum(len(message["content"].encode(errors="replace")) for message in messages)
