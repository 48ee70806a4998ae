"""Conversations through `/v1/batches`: the figures in files, and what comes back.

What is under way is noted in `FILE.batches.json` before it counts, so that a stopped command finds
its batches again and begins none twice. One call sends each figure once. What does *not* live here:
the endpoint's side (`services.endpoint_client.batches`), one figure (`asking.py`).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from datagen.errors import DataError
from datagen.instruct.generating import Generation
from datagen.instruct.replies import UnusableError
from datagen.instruct.run_files import RunFiles
from datagen.instruct.sampling import Sample
from modeling.count_progress import CountProgress
from modeling.durable_files import write_json
from services.endpoint_client.batches import MOST_BYTES, MOST_LINES, Batches, Result, request_line
from services.endpoint_client.budget import TooExpensiveError
from services.endpoint_client.client import EndpointClient


@dataclass(slots=True)
class Begun:
    """A batch of this run.

    Args:
        most_cost: what it may come to.
        batch_id: empty: it may not be there yet.
    """

    input_file_id: str
    num_figures: int
    most_cost: float
    batch_id: str = ""


async def ask_by_batches(
    generation: Generation, client: EndpointClient, files: RunFiles, look_s: float = 5.0
) -> None:
    """Ask all that is pending, and wait for it.

    Raises:
        EndpointError: the endpoint has no batches, or is away for too long.
        DataError: what is noted cannot be read.
    """
    run = _BatchRun(generation, files)
    before = generation.kept.tries.copy()
    async with Batches(client.endpoint, look_s) as batches:
        await run.collect(batches)  # of an earlier call
        pending = [
            number
            for number in generation.pending()
            if generation.kept.tries[generation.selection.ids[number]]
            == before[generation.selection.ids[number]]
        ]
        if pending and generation.asker.structured == "auto":
            await _settle_structure(generation, client, pending[0])
            pending = pending[1:]
        await run.begin(batches, pending)
        await run.collect(batches)


async def _settle_structure(generation: Generation, client: EndpointClient, number: int) -> None:
    """Ask one figure directly: it shows whether the endpoint has structured output."""
    await generation.ask(client, 1, [number])
    if generation.asker.structured == "auto":
        generation.asker.structured = "on"


class _BatchRun:
    def __init__(self, generation: Generation, files: RunFiles) -> None:
        self._generation = generation
        self._files = files
        self._begun = _read(files.batches)
        for each in self._begun:
            generation.asker.budget.release(-each.most_cost)

    async def begin(self, batches: Batches, pending: Sequence[int]) -> None:
        """Send figures, as many files as they need."""
        waiting = iter(pending)
        packed = self._files.beside("batch-input.jsonl")
        try:
            while True:
                num_figures, most_cost = self._pack(waiting, packed)
                if not num_figures:
                    return
                file_id = await batches.upload(packed)
                self._begun.append(Begun(file_id, num_figures, most_cost))
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
                first.batch_id = first.batch_id or await batches.begin(first.input_file_id)
                self._note()

                def tell(of_it: int, before: int = done) -> None:
                    progress.show(before + of_it, f"{progress.per_s(before + of_it):.1f} figures/s")

                ended = await batches.wait(first.batch_id, tell)
                for file_id in ended.result_files:
                    async for result in batches.results(file_id):
                        self._keep(result)
                if ended.why or ended.status != "completed":
                    why = f"{first.batch_id} {ended.status}"
                    self._generation.why_stopped = f"{why}: {ended.why}" if ended.why else why
                done += first.num_figures
                self._generation.asker.budget.release(first.most_cost)
                self._begun.pop(0)
                self._note()

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
                body = {"model": asker.model, "messages": messages, **fields}
                size += file.write(request_line(sample.id, body))
                num_figures += 1
                if size > MOST_BYTES:
                    break
        return num_figures, most_cost

    def _keep(self, result: Result) -> None:
        generation = self._generation
        if not result.was_asked or not generation.is_open(result.custom_id):
            return  # it comes again, or was kept by the call that was stopped
        if result.reply is None:
            generation.kept.fail(result.custom_id, result.why)
            return
        sample = self._sample(result.custom_id)
        if sample is None:
            return
        asker = generation.asker
        cost = asker.budget.prices.cost(result.reply.prompt_tokens, result.reply.completion_tokens)
        asker.budget.spent += cost
        seed = asker.decoding.seed + generation.kept.tries[sample.id]
        try:
            generation.kept.add(asker.record(sample, result.reply, seed, cost))
        except UnusableError as error:
            generation.kept.fail(sample.id, str(error), error.cost)

    def _sample(self, pair_id: str) -> Sample | None:
        place = self._generation.selection.place_of(pair_id)
        return None if place is None else self._generation.selection.at(place)

    def _note(self) -> None:
        if self._begun:
            write_json(self._files.batches, [asdict(each) for each in self._begun])
        else:
            self._files.batches.unlink(missing_ok=True)


def _read(file: Path) -> list[Begun]:
    try:
        return [Begun(**each) for each in json.loads(file.read_text("utf-8"))]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise DataError(f"{file} is damaged; begin anew with --new-run") from error
