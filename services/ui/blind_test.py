"""Two answers to one question: who gives which is drawn, hidden, voted on and counted. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from services.ui.conversation import Conversation, Turn, shown_messages
from services.ui.problems import Problem

Choice = Literal["a", "b", "both", "none"]
RATINGS: Mapping[Choice, tuple[str, str]] = {
    "a": ("up", "down"),
    "b": ("down", "up"),
    "both": ("up", "up"),
    "none": ("down", "down"),
}
LETTERS = ("A", "B")
_UNNAMED = "this model"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A model and how its answers are drawn."""

    model: str
    temperature: float

    @property
    def name(self) -> str:
        """What it is called in votes and counts."""
        return f"{self.model} at temperature {self.temperature:g}"


@dataclass(frozen=True, slots=True)
class Round:
    """A comparison, answer A first.

    Args:
        chosen: the contestants in the order in which they were chosen.
        is_swapped: A is the second of them.
        conversations: what each was asked and has answered.
        vote: "": none yet.
        is_kept: whether the gateway has the vote.
    """

    chosen: tuple[Contestant, Contestant]
    is_blind: bool
    is_swapped: bool
    conversations: tuple[Conversation, Conversation] = (Conversation(), Conversation())
    vote: Choice | Literal[""] = ""
    is_kept: bool = False

    @property
    def contestants(self) -> tuple[Contestant, Contestant]:
        """Who gives answer A, and who B."""
        first, second = self.chosen
        return (second, first) if self.is_swapped else (first, second)

    @property
    def turns(self) -> tuple[Turn, Turn]:
        """The last turn of each."""
        left, right = self.conversations
        return left.turns[-1], right.turns[-1]

    @property
    def is_over(self) -> bool:
        """Whether neither answer is under way."""
        return all(turn.state not in ("waiting", "streaming") for turn in self.turns)

    @property
    def can_be_voted_on(self) -> bool:
        """Whether there are two whole answers."""
        return all(turn.state == "complete" and turn.request_id for turn in self.turns)

    @property
    def is_open(self) -> bool:
        """Whether names are shown: after the vote, or where there can be none."""
        return not self.is_blind or bool(self.vote) or (self.is_over and not self.can_be_voted_on)

    def goes_on(self, chosen: tuple[Contestant, Contestant], *, is_blind: bool) -> bool:
        """Whether another question belongs to this round: nothing was changed, and no vote cast."""
        is_same = self.chosen == chosen and self.is_blind == is_blind
        return is_same and not self.vote and self.can_be_voted_on

    def with_turn(self, side: int, turn: Turn) -> "Round":
        """Return it with another last turn of a side."""
        left, right = self.conversations
        if side == 0:
            return replace(self, conversations=(left.with_last(turn), right))
        return replace(self, conversations=(left, right.with_last(turn)))

    def stopped(self) -> "Round":
        """Return it with what is under way given up."""
        found = self
        for side, turn in enumerate(self.turns):
            if turn.state in ("waiting", "streaming"):
                found = found.with_turn(side, replace(turn, state="stopped"))
        return found

    def reason(self, side: int) -> str:
        """Return what a vote on a side says beside its rating."""
        kind = "blind" if self.is_blind else "open"
        return f"{kind} comparison against {self.contestants[1 - side].name}"

    def messages(self, side: int) -> list[dict[str, Any]]:
        """Return what is shown of a side; what went wrong names no model before its time."""
        conversation = self.conversations[side]
        problem = self.turns[side].problem
        if problem is not None and not self.is_open:
            hidden = replace(self.turns[side], problem=self._unnamed(problem))
            conversation = conversation.with_last(hidden)
        return shown_messages(conversation)

    def label(self, side: int) -> str:
        """Return what a side is called."""
        letter = f"Answer {LETTERS[side]}"
        return f"{letter}: {self.contestants[side].name}" if self.is_open else letter

    def _unnamed(self, problem: Problem) -> Problem:
        cause = problem.cause
        for each in sorted({each.model for each in self.chosen}, key=len, reverse=True):
            cause = cause.replace(each, _UNNAMED)
        return replace(problem, cause=cause)


@dataclass(frozen=True, slots=True)
class Tally:
    """How often a contestant was better, worse, as good and as bad."""

    better: int = 0
    worse: int = 0
    both_good: int = 0
    both_bad: int = 0


@dataclass(frozen=True, slots=True)
class Score:
    """All votes since the page was opened, by the contestant's name."""

    tallies: Mapping[str, Tally] = field(default_factory=dict[str, Tally])

    def with_vote(self, of: Round, choice: Choice) -> "Score":
        """Return it with one more vote.

        Of a contestant against itself neither answer wins; what is said of both counts once.
        """
        names = {each.name for each in of.contestants}
        if len(names) == 1 and choice in ("a", "b"):
            return self
        tallies = dict(self.tallies)
        for side, each in enumerate(of.contestants):
            before = self.tallies.get(each.name, Tally())
            tallies[each.name] = _counted(before, choice, is_better=choice == "ab"[side])
        return Score(tallies)

    def rows(self) -> list[tuple[str, ...]]:
        """Return a row for each contestant, the one with most wins first."""
        ordered = sorted(self.tallies.items(), key=lambda each: (-each[1].better, each[0]))
        return [
            (name, *map(str, (each.better, each.worse, each.both_good, each.both_bad)))
            for name, each in ordered
        ]


def _counted(before: Tally, choice: Choice, *, is_better: bool) -> Tally:
    if choice == "both":
        return replace(before, both_good=before.both_good + 1)
    if choice == "none":
        return replace(before, both_bad=before.both_bad + 1)
    if is_better:
        return replace(before, better=before.better + 1)
    return replace(before, worse=before.worse + 1)
