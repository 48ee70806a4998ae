"""An engine without a model: numbered tokens on a clock, and faults on demand.

Part of the product: the load harness and the fault tests run on it, and so can a client's tests.
The answer's token i is `zq%04d ` (zq0000, zq0001, …). The last user message steers it:

    [[n=64 t=100 d=20]]   64 tokens, the first after 100 ms, then one every 20 ms (default 0 ms)
    [[crash=3]]           the engine process exits before token 3 (`segv=3`: by a signal)
    [[hang=3]]            the whole engine process stops for ever before token 3
    [[stall=3]]           the engine makes no step after token 3, while its process goes on
    [[slow=2000]]         admission blocks the engine for 2000 ms
    [[fail=3]]            the request, and it alone, fails before token 3

A token of the prompt is a word, an image counts (width // 14) * (height // 14) tokens: CLIP's patch
count. Images are brought to 336 x 336 pixels, as LLaVA-Med's are, which makes 576 tokens. Sampling
parameters change nothing, except `max_tokens` and `stop`. With a script (`scripted_answers.py`) it
says what stands there, a word a token, where a line fits the last user message.
"""

import asyncio
import os
import re
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modeling.adapter_files import AdapterFiles
from services.protocol.errors import ErrorCode, RequestError
from services.protocol.messages import (
    EngineEvent,
    Failed,
    Finished,
    FinishReason,
    GenerationRequest,
    ImagePart,
    ImageRecipe,
    ModelCard,
    TextPart,
    TokenLogprob,
    Tokens,
)
from services.worker.engines.base import EmitStep, EngineJob, StepProgress, end_process
from services.worker.engines.endings import failure_of, refuse_unknown_tokens
from services.worker.engines.scripted_answers import ScriptedAnswers
from services.worker.engines.stop_strings import StopStringMatcher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CRASH_EXIT_CODE = 70
_PATCH_PX = 14
_RECIPE = ImageRecipe(shortest_edge_px=336, crop_width_px=336, crop_height_px=336)
"""Of CLIP ViT-L/14-336, the vision tower of LLaVA-1.5 (arXiv:2310.03744) and LLaVA-Med v1.5."""
_MOST_IMAGES = 16
_KNOB = re.compile(r"(\w+)=(\d+(?:\.\d+)?)")
_STEERING = re.compile(r"\[\[([^\]]*)\]\]")
_MOST_MS = 3_600_000.0
_MOST = {"n": 9_999.0}
"""Knobs beyond mean this: the answer has no more numbers, and no clock runs for years."""
_TEXTS = tuple(f"zq{i:04d} " for i in range(10_000))
_PARAMETERS = frozenset({
    "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "n", "stop", "seed",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "logprobs", "top_logprobs",
    "logit_bias", "prompt",
})  # fmt: skip


@dataclass(slots=True)
class _Sequence:
    """A running request: the next token's number and when it is due."""

    request: GenerationRequest
    prompt_tokens: int
    length: int
    limit: int
    index: int
    due: float
    interval_s: float
    submitted: float
    knobs: dict[str, float]
    matcher: StopStringMatcher
    texts: "Sequence[str]"
    """Of its tokens, in their order."""
    prefill_s: float = -1.0


@dataclass(slots=True)
class FakeEngine:
    """See the module's text.

    Args:
        context_length: words and image patches of prompt and answer together.
        step_ms: delayed tokens come on a grid of so many milliseconds, as a batching engine's do.
        script: answers to say instead of numbers.
    """

    model_id: str
    context_length: int = 32_768
    step_ms: float = 5.0
    script: ScriptedAnswers = field(default_factory=ScriptedAnswers)
    _emit: EmitStep = field(init=False)
    _progress: StepProgress = field(init=False)
    _waiting: list[EngineJob] = field(default_factory=list[EngineJob])
    _running: dict[str, _Sequence] = field(default_factory=dict[str, "_Sequence"])
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _stepper: asyncio.Task[None] | None = None
    _is_stalled: bool = False
    _adapters: set[str] = field(default_factory=set[str])

    async def start(self, emit: EmitStep, progress: StepProgress) -> ModelCard:
        """Begin stepping; returns at once, there is nothing to load."""
        self._emit, self._progress = emit, progress
        self._stepper = asyncio.create_task(self._step_or_end())
        return ModelCard(
            id=self.model_id,
            engine="fake",
            context_length=self.context_length,
            max_images=_MOST_IMAGES,
            parameters=_PARAMETERS,
            resumes=frozenset({"greedy", "sampling", "logprobs"}),
            image_recipe=_RECIPE,
            image_tokens=(_RECIPE.crop_width_px // _PATCH_PX) ** 2,
            created=int(time.time()),  # noqa: TID251 - a calendar date for clients
        )

    def submit(self, job: EngineJob) -> None:
        """See `Engine.submit`."""
        self._waiting.append(job)
        self._wake.set()

    def abort(self, request_id: str) -> None:
        """See `Engine.abort`."""
        self._running.pop(request_id, None)
        self._waiting = [job for job in self._waiting if job.request.request_id != request_id]

    async def load_adapter(self, adapter: AdapterFiles) -> None:
        """Take it; answers are the base's."""
        self._adapters.add(adapter.name)

    async def unload_adapter(self, name: str) -> None:
        """Refuse it from now on."""
        self._adapters.discard(name)

    def stats(self) -> None:
        """It keeps no figures."""

    async def close(self) -> None:
        """Stop stepping."""
        if self._stepper is not None:
            self._stepper.cancel()
            await asyncio.gather(self._stepper, return_exceptions=True)

    async def _step_or_end(self) -> None:
        try:
            await self._step_forever()
        except Exception as error:  # noqa: BLE001 - whatever it is, this engine is done for
            end_process(error)

    async def _step_forever(self) -> None:
        while not self._is_stalled:
            if not self._running and not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            events: list[EngineEvent] = []
            if self._waiting:
                self._admit(events)
            now = time.monotonic()
            soonest = self._decode(now, events)
            self._progress.step_done()
            if events:
                self._emit(events)
            await self._until(soonest, now)

    async def _until(self, due: float | None, now: float) -> None:
        """Sleep until the grid's first point at or after `due`, or until a request comes."""
        if due is None or due <= now:
            await asyncio.sleep(0)
            return
        grid_s = self.step_ms / 1000
        at = (int(due / grid_s) + 1) * grid_s
        self._wake.clear()
        loop = asyncio.get_running_loop()
        timer = loop.call_later(min(at - now, 0.5), self._wake.set)
        await self._wake.wait()
        timer.cancel()

    def _admit(self, events: list[EngineEvent]) -> None:
        jobs, self._waiting = self._waiting, []
        self._progress.admitting([job.request.request_id for job in jobs])
        for job in jobs:
            request = job.request
            if request.adapter is not None and request.adapter not in self._adapters:
                events.append(_adapter_unknown(request, request.adapter))
                continue
            if unknown := _unknown_bias(request):
                events.append(unknown)
                continue
            sequence = _begin(job, self.script)
            asked = request.sampling.max_tokens or sequence.limit
            if sequence.prompt_tokens + asked > self.context_length:
                events.append(
                    _too_long(request, sequence.prompt_tokens, asked, self.context_length)
                )
                continue
            if slow_ms := sequence.knobs.get("slow"):
                threading.Event().wait(slow_ms / 1000)
            if sequence.due <= time.monotonic():
                _act(sequence)  # a fault of the first token is one of the admission
            self._running[request.request_id] = sequence
        self._progress.admitting(())  # a death from here on may be anybody's doing

    def _decode(self, now: float, events: list[EngineEvent]) -> float | None:
        """Give every due sequence one token; returns when the next one is due."""
        soonest: float | None = None
        for sequence in list(self._running.values()):
            if sequence.due <= now:
                if sequence.knobs:
                    _act(sequence)
                    self._is_stalled |= sequence.knobs.get("stall") == sequence.index
                if _next_token(sequence, now, events):
                    del self._running[sequence.request.request_id]
                    continue
            if soonest is None or sequence.due < soonest:
                soonest = sequence.due
        return soonest


def _begin(job: EngineJob, script: ScriptedAnswers) -> _Sequence:
    request = job.request
    question = _question(request)
    scripted = script.words_for(question)
    texts = _TEXTS if scripted is None else scripted
    knobs = _knobs(question)
    now = time.monotonic()
    resumed = len(request.resume_token_ids)
    matcher = StopStringMatcher(request.sampling.stop)
    for token_id in request.resume_token_ids:
        matcher.push(texts[token_id])
    length = int(knobs.pop("n", 16 if scripted is None else len(scripted)))
    length = min(length, len(texts))
    most = request.sampling.max_tokens
    first_ms, interval_s = knobs.pop("t", 0.0), knobs.pop("d", 0.0) / 1000
    return _Sequence(
        request=request,
        prompt_tokens=_prompt_tokens(request),
        length=length,
        limit=min(length, most) if most is not None else length,
        index=resumed,
        due=now + (first_ms / 1000 if resumed == 0 else interval_s),
        interval_s=interval_s,
        submitted=now,
        knobs=knobs,
        matcher=matcher,
        texts=texts,
    )


def _next_token(sequence: _Sequence, now: float, events: list[EngineEvent]) -> bool:
    """Append the next token's events; returns whether the sequence ends."""
    request, index = sequence.request, sequence.index
    if sequence.knobs.get("fail") == index:
        message = "the fake engine was told to fail"
        failed = Failed(request.request_id, request.attempt, ErrorCode.INTERNAL_ERROR, message)
        events.append(failed)
        return True
    if sequence.prefill_s < 0:
        sequence.prefill_s = now - sequence.submitted
    if index >= sequence.limit or sequence.matcher.matched is not None:  # resumed at its end
        whole = sequence.matcher.matched is not None or index >= sequence.length
        events.append(_finished(sequence, "stop" if whole else "length"))
        return True
    text = sequence.matcher.push(sequence.texts[index])
    sequence.index = index + 1
    sequence.due += sequence.interval_s
    stopped = sequence.matcher.matched is not None
    ended = stopped or sequence.index >= sequence.limit
    if ended and not stopped:
        text += sequence.matcher.flush()
    asked = request.sampling.logprobs
    logprobs = None if asked is None else [_logprob(sequence.texts, index, asked)]
    events.append(Tokens(request.request_id, request.attempt, index, [index], [text], logprobs))
    if ended:
        whole = stopped or sequence.index >= sequence.length
        events.append(_finished(sequence, "stop" if whole else "length"))
    return ended


def _finished(sequence: _Sequence, reason: FinishReason) -> Finished:
    request = sequence.request
    return Finished(
        request.request_id,
        request.attempt,
        reason,
        sequence.prompt_tokens,
        sequence.index,
        sequence.prefill_s,
        _image_tokens(request),
    )


def _act(sequence: _Sequence) -> None:
    """Crash or hang, where the prompt asks for it at this token."""
    actions: Sequence[tuple[str, Callable[[], object]]] = (
        ("crash", lambda: os._exit(CRASH_EXIT_CODE)),
        ("segv", lambda: os.kill(os.getpid(), signal.SIGSEGV)),
        ("hang", lambda: threading.Event().wait()),
    )
    for knob, act in actions:
        if sequence.knobs.get(knob) == sequence.index:
            act()


def _logprob(texts: "Sequence[str]", index: int, alternatives: int) -> TokenLogprob:
    """A fixed distribution: the token itself at log 0.5, alternative k at log 0.5 ** (k + 1)."""
    half = -0.6931471805599453  # ln 0.5
    top = tuple(
        (index + k, texts[(index + k) % len(texts)], half * (k + 1)) for k in range(alternatives)
    )
    return TokenLogprob(index, texts[index], half, top)


def _adapter_unknown(request: GenerationRequest, adapter: str) -> Failed:
    message = f"the adapter {adapter!r} is not loaded; see /v1/models"
    code = ErrorCode.MODEL_NOT_FOUND
    return Failed(request.request_id, request.attempt, code, message, "model")


def _unknown_bias(request: GenerationRequest) -> Failed | None:
    try:
        refuse_unknown_tokens(request.sampling, len(_TEXTS), request.model)
    except RequestError as error:
        return failure_of(request, error)
    return None


def _too_long(request: GenerationRequest, prompt: int, asked: int, context: int) -> Failed:
    message = (
        f"the prompt has {prompt} tokens and max_tokens allows {asked} more, but the context of "
        f"`{request.model}` is {context} tokens; shorten the messages or lower max_tokens"
    )
    return Failed(
        request.request_id, request.attempt, ErrorCode.CONTEXT_LENGTH_EXCEEDED, message, "messages"
    )


def _prompt_tokens(request: GenerationRequest) -> int:
    parts = [part for message in request.messages for part in message.parts]
    num_words = sum(len(part.text.split()) for part in parts if isinstance(part, TextPart))
    return num_words + _image_tokens(request)


def _image_tokens(request: GenerationRequest) -> int:
    parts = [part for message in request.messages for part in message.parts]
    images = [part.image for part in parts if isinstance(part, ImagePart)]
    return sum((each.width // _PATCH_PX) * (each.height // _PATCH_PX) for each in images)


def _question(request: GenerationRequest) -> str:
    """Return the text of the last user message."""
    for message in reversed(request.messages):
        if message.role == "user":
            return "".join(part.text for part in message.parts if isinstance(part, TextPart))
    return ""


def _knobs(question: str) -> dict[str, float]:
    found = _STEERING.findall(question)
    knobs = {k: float(v) for part in found for k, v in _KNOB.findall(part)}
    return {k: min(v, _MOST.get(k, _MOST_MS)) for k, v in knobs.items()}
