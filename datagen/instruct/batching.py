"""Conversations through `/v1/batches`: the figures in files, and what comes back.

What is under way is noted in `FILE.batches.json` before it counts, so that a stopped command finds
its batches again and begins none twice. One call sends each figure once. What does *not* live here:
the endpoint's side (`services.endpoint_client.batches`), one figure (`asking.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from datagen.errors import DataError
from datagen.instruct.generating import Generation
from datagen.instruct.replies import UnusableError
from datagen.instruct.run_files import RunFiles
from datagen.instruct.sampling import Sample
from datagen.instruct.under_way import Begun, read_begun, write_begun
from modeling.count_progress import CountProgress
from services.endpoint_client.batches import MOST_BYTES, MOST_LINES, Batches, Result, request_line
from services.endpoint_client.budget import TooExpensiveError
from services.endpoint_client.client import EndpointClient, EndpointError

_NOT_FOUND = 404
_UNKNOWN = frozenset({400, _NOT_FOUND})


async def ask_by_batches(
    generation: Generation, client: EndpointClient, files: RunFiles, look_s: float = 5.0
) -> None:
    """Ask all that is pending, and wait for it.

    Raises:
        EndpointError: the endpoint has no batches, or is away for too long.
        DataError: what is noted cannot be read, or is under way at another endpoint.
    """
    run = _BatchRun(generation, client, files)
    before = generation.kept.tries.copy()
    async with Batches(client.endpoint, look_s) as batches:
        await run.collect(batches)  # of an earlier call
        ids, tries = generation.selection.ids, generation.kept.tries
        asked = {name for name in ids if tries[name] != before[name]} | set(generation.unanswered)
        pending = [number for number in generation.pending() if ids[number] not in asked]
        pending = await _settle(generation, client, pending)
        await run.begin(batches, pending)
        await run.collect(batches)
    generation.why_stopped = generation.why_stopped or run.why_ended


async def _settle(generation: Generation, client: EndpointClient, pending: list[int]) -> list[int]:
    """Ask figures directly until one has a reply; returns the others.

    It shows whether the endpoint has structured output, and which fields it takes: else a mistake
    would stand in every line of a batch.
    """
    num_before, asked = generation.num_replies, 0
    while asked < len(pending) and generation.num_replies == num_before:
        number = pending[asked]
        await generation.ask(client, 1, [number])
        if why := generation.unanswered.get(generation.selection.ids[number]):
            generation.why_stopped = generation.why_stopped or why
        if generation.why_stopped:
            break
        asked += 1
    if generation.num_replies > num_before and generation.asker.structured == "auto":
        generation.asker.structured = "on"
    return pending[asked:]


class _GoneError(Exception):
    """Nothing more will come of a batch."""


class _BatchRun:
    def __init__(self, generation: Generation, client: EndpointClient, files: RunFiles) -> None:
        self._generation = generation
        self._client = client
        self._files = files
        self.why_ended = ""
        """Why a batch gave less than was asked of it; empty: none did."""
        self._put_off: list[Begun] = []
        """With conversations about figures that this call has not chosen."""
        self._begun = read_begun(files.batches)
        for each in self._begun:
            if each.url not in {"", client.endpoint.url}:
                raise DataError(
                    f"batches are under way at {each.url}, and not at {client.endpoint.url}; "
                    "collect them there first, with that --url"
                )
            generation.asker.budget.release(-each.most_cost)

    async def begin(self, batches: Batches, pending: Sequence[int]) -> None:
        """Send figures, as many files as they need."""
        waiting, url = iter(pending), self._client.endpoint.url
        packed = self._files.beside("batch-input.jsonl")
        try:
            while not self._generation.why_stopped:
                num_figures, most_cost = self._pack(waiting, packed)
                if not num_figures:
                    return
                file_id = await batches.upload(packed)
                self._begun.append(Begun(file_id, num_figures, most_cost, url=url))
                self._note()
                self._begun[-1].batch_id = await batches.begin(file_id)
                self._note()
        finally:
            packed.unlink(missing_ok=True)

    async def collect(self, batches: Batches) -> None:
        """Wait for all that is under way, and keep what came of it."""
        total, done = sum(each.num_figures for each in self._begun), 0
        with CountProgress("asked", total, 0) as progress:
            while self._begun:
                first = self._begun[0]

                def tell(of_it: int, before: int = done) -> None:
                    progress.show(before + of_it, f"{progress.per_s(before + of_it):.1f} figures/s")

                try:
                    num_beyond = await self._collect(batches, first, tell)
                except _GoneError as error:
                    progress.say(
                        f"{error}; of its {first.num_figures} figures, those without a "
                        "conversation are asked again in another batch"
                    )
                    num_beyond = 0
                if num_beyond:
                    self._put_off.append(first)
                    progress.say(
                        f"{first.batch_id} has replies about {num_beyond} more figures than "
                        "--max-size allows; they are kept by a call with a larger one"
                    )
                done += first.num_figures
                self._generation.asker.budget.release(0 if num_beyond else first.most_cost)
                self._begun.pop(0)
                self._note()

    async def _collect(self, batches: Batches, begun: Begun, tell: Callable[[int], None]) -> int:
        """Wait for one, and keep what came of it; returns how many replies have no place here.

        Raises:
            _GoneError: the endpoint has batches, and does not know this one, or its results.
        """
        try:
            begun.batch_id = begun.batch_id or await batches.begin(begun.input_file_id)
            self._note()
            ended = await batches.wait(begun.batch_id, tell)
        except EndpointError as error:
            if error.status not in _UNKNOWN or await batches.knows(begun.batch_id):
                raise
            raise _GoneError(str(error)) from error
        num_beyond = 0
        for file_id in ended.result_files:
            try:
                async for result in batches.results(file_id):
                    num_beyond += not self._keep(result, begun.batch_id)
            except EndpointError as error:
                if error.status != _NOT_FOUND:
                    raise
                raise _GoneError(f"{error}, with results of {begun.batch_id}") from error
        if ended.why or ended.status != "completed":
            why = f"{begun.batch_id} {ended.status}"
            self.why_ended = f"{why}: {ended.why}" if ended.why else why
        return num_beyond

    def _pack(self, waiting: Iterator[int], packed: Path) -> tuple[int, float]:
        """Write one file; returns how many figures it has, and what they may cost."""
        asker, kept = self._generation.asker, self._generation.kept
        num_figures, size, most_cost = 0, 0, 0.0
        with packed.open("wb") as file:
            for number in islice(waiting, MOST_LINES):
                sample = self._generation.selection.at(number)
                messages, fields = asker.request(sample, kept.tries[sample.id])
                try:
                    most_cost += asker.budget.hold(messages, asker.decoding.max_tokens)
                except TooExpensiveError as error:
                    self._generation.why_stopped = str(error)
                    break
                body = {"model": asker.model, "messages": messages, **self._client.fields(fields)}
                size += file.write(request_line(sample.id, body))
                num_figures += 1
                if size > MOST_BYTES:
                    break
        return num_figures, most_cost

    def _keep(self, result: Result, batch_id: str) -> bool:
        """Keep a line; False: it is a reply about a figure that was not chosen."""
        generation, pair_id = self._generation, result.custom_id
        if not result.was_asked:
            return True  # it comes again
        if pair_id in generation.kept or generation.kept.batches.get(pair_id) == batch_id:
            return True  # it was kept by the call that was stopped
        if (sample := self._sample(pair_id)) is None:
            return result.reply is None
        if result.reply is None:
            generation.no_reply(pair_id, result.status, result.why, batch_id)
            return True
        asker, tries = generation.asker, generation.kept.tries[pair_id]
        messages, _ = asker.request(sample, tries)
        most = asker.budget.most(messages, asker.decoding.max_tokens)
        cost = asker.budget.answered(result.reply, most)
        try:
            record = asker.record(sample, result.reply, asker.decoding.seed + tries, cost)
        except UnusableError as error:
            generation.fail(pair_id, error, batch_id)
        else:
            generation.kept.add(record)
            generation.succeed()
        return True

    def _sample(self, pair_id: str) -> Sample | None:
        place = self._generation.selection.place_of(pair_id)
        return None if place is None else self._generation.selection.at(place)

    def _note(self) -> None:
        write_begun(self._files.batches, [*self._put_off, *self._begun])
