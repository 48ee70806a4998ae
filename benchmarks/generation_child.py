"""One party of `engine_throughput.py` in a process of its own, so that its memory is its own.

Reads one JSON line per load from stdin and answers with one line of results. Two parties: the
transformers engine of this platform, which batches, and the model's own `generate`, one request
after the other, as LLaVA-Med's worker does. Every answer has exactly `num_tokens` tokens; every
request shows an image of its own.

Run: python -m benchmarks.generation_child engine|generate CHECKPOINT OPTIONS_JSON MAX_BATCH
"""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from PIL import Image
from transformers.generation.streamers import BaseStreamer

from benchmarks.processes import peak_rss_mb, reset_peak_rss
from services.protocol.messages import (
    EngineEvent,
    Failed,
    Finished,
    GenerationRequest,
    ImagePart,
    ImageRef,
    Message,
    SamplingParams,
    TextPart,
    Tokens,
)
from services.worker.engines.base import EngineJob
from services.worker.engines.chat_prompt import PromptBuilder
from services.worker.engines.checkpoint import load_checkpoint
from services.worker.engines.transformers_engine import TransformersEngine
from services.worker.load_options import LoadOptions

QUESTION = "What does this image show? Describe the finding and say on which side it lies."


class Load(msgspec.Struct, frozen=True):
    """What to generate.

    Args:
        concurrency: requests under way at once (`generate` has always one).
        num_requests: in all.
        seed: of the images; another one gives others.
    """

    concurrency: int
    num_requests: int
    num_tokens: int
    image_px: int
    seed: int


class LoadResult(msgspec.Struct, frozen=True):
    """What came of it.

    Args:
        wall_s: first submission to last token.
        ttft_s: median time from submission to the first token.
        tpot_s: median time of a token after the first, within one answer.
        peak_rss_mb: largest resident set of the process during the load.
        peak_gpu_mb: most memory that torch held on the GPU during the load; 0 without one.
    """

    wall_s: float
    num_tokens: int
    prompt_tokens: int
    ttft_s: float
    tpot_s: float
    peak_rss_mb: float
    peak_gpu_mb: float


class _Timed(msgspec.Struct):
    """One answer's clock."""

    submitted_s: float
    times_s: list[float] = msgspec.field(default_factory=list)
    prompt_tokens: int = 0


def make_job(number: int, load: Load) -> EngineJob:
    """Return a request of a load."""
    noise = np.random.default_rng((load.seed, number))
    side = load.image_px
    image = Image.fromarray(noise.integers(0, 256, (side, side, 3), dtype=np.uint8))
    ref = ImageRef(f"{load.seed:032x}{number:032x}", side, side)
    sampling = SamplingParams(
        temperature=0.0, max_tokens=load.num_tokens, min_tokens=load.num_tokens
    )
    request = GenerationRequest(
        request_id=f"{load.seed}-{number}",
        gateway_id="bench",
        tenant_id="bench",
        model="bench",
        lane="interactive",
        messages=(Message("user", (ImagePart(ref), TextPart(QUESTION))),),
        sampling=sampling,
    )
    return EngineJob(request, (image,))


class EngineParty:
    """The transformers engine, without Redis and gateway."""

    def __init__(self, path: Path, options: LoadOptions, max_batch: int) -> None:
        self._engine = TransformersEngine(path, "bench", max_batch, load=options)
        self._timed: dict[str, _Timed] = {}
        self._ended: asyncio.Queue[str] = asyncio.Queue()

    async def start(self) -> None:
        await self._engine.start(self._emit, self)

    def admitting(self, request_ids: Sequence[str]) -> None:
        """Nobody watches the progress."""

    def step_done(self) -> None:
        """Nobody watches the progress."""

    async def run(self, load: Load) -> LoadResult:
        """Keep `concurrency` requests under way until all have ended."""
        self._timed = {}
        jobs = [make_job(number, load) for number in range(load.num_requests)]
        began_s = time.monotonic()
        waiting = iter(jobs)
        for _ in range(min(load.concurrency, len(jobs))):
            self._submit(next(waiting))
        for _ in jobs:
            await self._ended.get()
            if (job := next(waiting, None)) is not None:
                self._submit(job)
        return result_of(list(self._timed.values()), time.monotonic() - began_s)

    def _submit(self, job: EngineJob) -> None:
        self._timed[job.request.request_id] = _Timed(time.monotonic())
        self._engine.submit(job)

    def _emit(self, events: Sequence[EngineEvent]) -> None:
        now_s = time.monotonic()
        for event in events:
            timed = self._timed[event.request_id]
            match event:
                case Tokens():
                    timed.times_s += [now_s] * len(event.token_ids)
                case Finished():
                    timed.prompt_tokens = event.prompt_tokens
                    self._ended.put_nowait(event.request_id)
                case Failed():
                    raise RuntimeError(event.message)


class GenerateParty:
    """The model's own `generate`, one request after the other, whatever the concurrency."""

    def __init__(self, path: Path, options: LoadOptions) -> None:
        self._checkpoint = load_checkpoint(path, options)
        self._prompts = PromptBuilder(self._checkpoint.processor, self._checkpoint.image_token_id)

    async def start(self) -> None:
        """It is loaded already."""

    async def run(self, load: Load) -> LoadResult:
        """Answer all requests."""
        jobs = [make_job(number, load) for number in range(load.num_requests)]
        began_s = time.monotonic()
        timed = [self._answer(job, load.num_tokens) for job in jobs]
        return result_of(timed, time.monotonic() - began_s)

    @torch.inference_mode()
    def _answer(self, job: EngineJob, num_tokens: int) -> _Timed:
        timed = _Timed(time.monotonic())
        prompt = self._prompts.build(job.request.messages, job.images)
        model = self._checkpoint.model
        inputs = {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            for name, value in prompt.inputs.items()
        }
        model.generate(  # type: ignore[attr-defined]  # a mixin with a protocol for self
            **inputs,
            do_sample=False,
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            streamer=_Clock(timed),
        )
        timed.prompt_tokens = len(prompt.token_ids)
        return timed


class _Clock(BaseStreamer):
    """Notes when tokens come; the first call is the prompt."""

    def __init__(self, timed: _Timed) -> None:
        self._timed = timed
        self._has_prompt = False

    def put(self, value: torch.Tensor) -> None:  # noqa: ARG002 (transformers' interface)
        if self._has_prompt:
            self._timed.times_s.append(time.monotonic())
        self._has_prompt = True

    def end(self) -> None:
        pass


def result_of(timed: Sequence[_Timed], wall_s: float) -> LoadResult:
    """Return the figures of a load."""
    gaps_s = [
        (each.times_s[-1] - each.times_s[0]) / (len(each.times_s) - 1)
        for each in timed
        if len(each.times_s) > 1
    ]
    on_gpu = torch.cuda.is_available()
    return LoadResult(
        wall_s=wall_s,
        num_tokens=sum(len(each.times_s) for each in timed),
        prompt_tokens=sum(each.prompt_tokens for each in timed),
        ttft_s=statistics.median(each.times_s[0] - each.submitted_s for each in timed),
        tpot_s=statistics.median(gaps_s) if gaps_s else 0.0,
        peak_rss_mb=peak_rss_mb([os.getpid()]),
        peak_gpu_mb=torch.cuda.max_memory_allocated() / 1e6 if on_gpu else 0.0,
    )


async def main(kind: str, path: Path, options: LoadOptions, max_batch: int) -> None:
    """Load, say so with an empty line, answer loads until stdin ends."""
    party = (
        EngineParty(path, options, max_batch) if kind == "engine" else GenerateParty(path, options)
    )
    await party.start()
    print(flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        reset_peak_rss([os.getpid()])
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        result = await party.run(msgspec.json.decode(line, type=Load))
        print(msgspec.json.encode(result).decode(), flush=True)


if __name__ == "__main__":
    torch.set_num_interop_threads(1)
    asyncio.run(
        main(
            sys.argv[1],
            Path(sys.argv[2]),
            msgspec.json.decode(sys.argv[3], type=LoadOptions),
            int(sys.argv[4]),
        )
    )
