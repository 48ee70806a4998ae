"""Asks for conversations about all chosen figures, and keeps each at once.

Stopped at any moment, the same call goes on: what is on the disk is not asked again. What does
*not* live here: one figure (`asking.py`), the files (`run_files.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from datagen.instruct.asking import CONTENT_FILTERS, Asker
from datagen.instruct.replies import UnusableError
from datagen.instruct.run_files import Kept
from datagen.instruct.sampling import Sample, Selection
from modeling.count_progress import CountProgress
from services.endpoint_client.asking_all import Asking, ask_all
from services.endpoint_client.budget import TooExpensiveError
from services.endpoint_client.client import EndpointClient, EndpointError

_MOST_IN_A_ROW = 50  # without one conversation in between: more of them would only cost
_OF_THE_REQUEST = frozenset({400, 413, 415, 422})
"""Statuses that say something of one figure; all else is an outage, or concerns all of them."""


@dataclass(slots=True)
class Generation:
    """One call.

    Args:
        tries: a figure that gave no conversation so often stays a failure.
        why_stopped: why figures were left that could have been asked; empty: none were.
        unanswered: why figures have no reply, by their ids, where that is not their doing; no try
            of theirs is counted.
        num_replies: in this call, usable or not.
    """

    selection: Selection
    asker: Asker
    kept: Kept
    tries: int
    why_stopped: str = ""
    unanswered: dict[str, str] = field(default_factory=dict[str, str], init=False)
    num_replies: int = field(default=0, init=False)
    _num_in_a_row: int = field(default=0, init=False)

    def pending(self) -> list[int]:
        """Return the places in the selection of what is still to be asked."""
        return [number for number, name in enumerate(self.selection.ids) if self.is_open(name)]

    def is_open(self, pair_id: str) -> bool:
        """Whether a figure has no conversation yet, and may be asked for one."""
        return pair_id not in self.kept and self.kept.tries[pair_id] < self.tries

    def succeed(self) -> None:
        """Count a conversation; it is kept elsewhere."""
        self.num_replies += 1
        self._num_in_a_row = 0

    def fail(self, pair_id: str, error: UnusableError, batch_id: str = "") -> None:
        """Keep why a reply holds no conversation: one try less."""
        self.num_replies += 1
        self.kept.fail(pair_id, str(error), error.cost, batch_id)
        self._count_in_a_row(str(error))

    def no_reply(self, pair_id: str, status: int | None, reason: str, batch_id: str = "") -> None:
        """Keep why there is no reply: one try less, if that is the figure's doing.

        Args:
            status: HTTP's; None: there was none.
        """
        if status in _OF_THE_REQUEST:
            self.kept.fail(pair_id, reason, batch_id=batch_id)
        else:
            self.unanswered[pair_id] = reason
        self._count_in_a_row(reason)

    async def ask(
        self, client: EndpointClient, at_once: int, places: list[int] | None = None
    ) -> None:
        """Ask what is pending.

        Args:
            places: in the selection, of what to ask; None: all.

        Raises:
            EndpointError: nothing will be answered: a wrong key, no such host or model.
            OSError: a record cannot be kept.
        """

        async def ask(sample: Sample) -> Mapping[str, object]:
            return await self._ask(client, sample)

        pending = self.pending() if places is None else places
        done = len(self.selection.ids) - len(pending)
        with CountProgress("asked", len(self.selection.ids), done) as progress:

            def advance(_: Sample, __: Mapping[str, object] | None) -> None:
                nonlocal done
                done += 1
                progress.show(done, self._words(progress.per_s(done)))

            asking = Asking(ask, at_once, (UnusableError, TooExpensiveError))
            await ask_all(self._waiting(pending), asking, self.kept, advance)

    def _waiting(self, pending: list[int]) -> Iterator[Sample]:
        for number in pending:
            if self.why_stopped:
                return
            yield self.selection.at(number)

    async def _ask(self, client: EndpointClient, sample: Sample) -> Mapping[str, object]:
        try:
            record = await self.asker.ask(client, sample, self.kept.tries[sample.id])
        except TooExpensiveError as error:
            self.why_stopped = str(error)
            raise
        except UnusableError as error:
            self.fail(sample.id, error)
            raise
        except EndpointError as error:
            if not error.is_final:
                self.no_reply(sample.id, error.status, reason_of(error))
            raise
        self.succeed()
        return record

    def _count_in_a_row(self, reason: str) -> None:
        self._num_in_a_row += 1
        if self._num_in_a_row >= _MOST_IN_A_ROW and not self.why_stopped:
            self.why_stopped = (
                f"{_MOST_IN_A_ROW} figures in a row gave no conversation, the last one: {reason}; "
                "see to that first, then the same command goes on"
            )

    def _words(self, per_s: float) -> str:
        totals = self.kept.totals
        words = f"{per_s:.1f} figures/s  {_millions(totals.prompt_tokens)}"
        words += f"+{_millions(totals.completion_tokens)} M tokens"
        if self.asker.budget.spent:
            words += f"  cost {self.asker.budget.spent:.2f}"
        failed = self.kept.num_without
        return words + (f"  {failed} without a conversation" if failed else "")


def reason_of(error: EndpointError) -> str:
    """Return why an endpoint gave no reply, in a few words."""
    return "content filter" if error.code in CONTENT_FILTERS else str(error)


def _millions(tokens: int) -> str:
    return f"{tokens / 1e6:.2f}"
