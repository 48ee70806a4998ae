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

_MOST_IN_A_ROW = 100  # without one answer in between, nobody will answer


@dataclass(slots=True)
class Generation:
    """One call.

    Args:
        tries: a figure that gave no conversation so often stays a failure.
        why_stopped: why figures were left that could have been asked; empty: none were.
    """

    selection: Selection
    asker: Asker
    kept: Kept
    tries: int
    why_stopped: str = ""
    num_in_a_row: int = field(default=0, init=False)

    def pending(self) -> list[int]:
        """Return the places in the selection of what is still to be asked."""
        return [number for number, name in enumerate(self.selection.ids) if self.is_open(name)]

    def is_open(self, pair_id: str) -> bool:
        """Whether a figure has no conversation yet, and may be asked for one."""
        return pair_id not in self.kept and self.kept.tries[pair_id] < self.tries

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
            self.num_in_a_row = 0
            self.kept.fail(sample.id, str(error), error.cost)
            raise
        except EndpointError as error:
            self._no_answer(sample.id, error)
            raise
        self.num_in_a_row = 0
        return record

    def _no_answer(self, pair_id: str, error: EndpointError) -> None:
        if error.is_final:
            return
        self.kept.fail(pair_id, reason_of(error))
        self.num_in_a_row += 1
        if self.num_in_a_row >= _MOST_IN_A_ROW:
            self.why_stopped = f"{_MOST_IN_A_ROW} figures in a row have no answer: {error}"

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
