"""Which requests are in the batch, and what each of them says after every step.

Requests join and leave at step borders: a step decodes one token for every running request, then
prefills some of the waiting ones, at least one where there is room. Synchronous and used from one
thread only. What does *not* live here: that thread (`transformers_engine.py`), forward passes
(`model_runner.py`), the choice of tokens (`sampling.py`).
"""

import functools
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
import torch
from transformers import PreTrainedTokenizerBase

from services.protocol.errors import ErrorCode, RequestError
from services.protocol.messages import (
    EngineEvent,
    Finished,
    FinishReason,
    GenerationRequest,
    ImagePart,
    SamplingParams,
    TokenLogprob,
    Tokens,
)
from services.worker.engines.adapter_rows import BASE, AdapterRows
from services.worker.engines.answer import Answer
from services.worker.engines.base import EngineJob, StepProgress
from services.worker.engines.chat_prompt import Prompt, PromptBuilder, PromptError, extend_inputs
from services.worker.engines.endings import (
    failure_of,
    internal_failure,
    refuse_many_images,
    refuse_unknown_tokens,
    template_refusal,
)
from services.worker.engines.guidance import GuidanceError, Guide
from services.worker.engines.image_feature_cache import ImageKey
from services.worker.engines.model_runner import ModelRunner
from services.worker.engines.sampling import Choice, SamplingRow, choose_tokens
from services.worker.engines.schema_check import refusal

log = structlog.get_logger(__name__)

# Prompt tokens prefilled in one step before running requests get their next token.
PREFILL_TOKENS_PER_STEP = 1024


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What the scheduler holds requests to.

    Args:
        model_id: the model's name in error messages.
        max_batch: sequences that run at once.
        context_length: tokens, prompt and answer together.
        max_images: per request.
        eos_ids: tokens that end an answer.
        stop_strings: the checkpoint's own texts that do.
        vocab_size: tokens that a logit bias may name.
    """

    model_id: str
    max_batch: int
    context_length: int
    max_images: int
    eos_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()
    vocab_size: int = 0


@dataclass(frozen=True, slots=True)
class Submission:
    """A job in the engine's hands; `ticket` tells apart two jobs with one request id.

    Args:
        guide: at the beginning of the answer; None where the request names no schema.
    """

    ticket: int
    job: EngineJob
    submitted_s: float
    guide: Guide | None = None


@dataclass(slots=True)
class _Running:
    submission: Submission
    answer: Answer
    sampling: SamplingRow
    num_prompt_tokens: int
    num_image_tokens: int
    adapter: str = BASE
    prefill_s: float | None = None

    @property
    def request(self) -> GenerationRequest:
        return self.submission.job.request

    @property
    def guide(self) -> Guide | None:
        return self.submission.guide

    @property
    def is_short(self) -> bool:
        """Whether the answer may not end yet."""
        return len(self.answer.token_ids) < self.request.sampling.min_tokens


TicketedEvent = tuple[int, EngineEvent]


class BatchScheduler:
    """Turns submissions into events, one step at a time."""

    def __init__(
        self,
        runner: ModelRunner,
        prompts: PromptBuilder,
        tokenizer: PreTrainedTokenizerBase,
        limits: BatchLimits,
        adapters: AdapterRows,
    ) -> None:
        self._runner = runner
        self.adapters = adapters
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._eos_ids = limits.eos_ids
        self._eos_index = torch.tensor(sorted(limits.eos_ids), dtype=torch.long)
        self._limits = limits
        self._waiting: deque[Submission] = deque()
        self._running: list[_Running] = []  # in the order of the runner's rows
        self._token_text = functools.lru_cache(maxsize=16384)(self._decode_one)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting or self._running)

    def submit(self, submission: Submission) -> None:
        """Queue a request for the next step with room."""
        self._waiting.append(submission)

    def abort(self, ticket: int) -> None:
        """Forget a request, waiting or running; unknown tickets are ignored."""
        self._waiting = deque(s for s in self._waiting if s.ticket != ticket)
        for row, running in enumerate(self._running):
            if running.submission.ticket == ticket:
                self._leave(row)
                return

    def step(self, progress: StepProgress) -> list[TicketedEvent]:
        """Decode, admit, choose; returns what the requests say now."""
        events: list[TicketedEvent] = []
        self.adapters.drop_unused({running.adapter for running in self._running})
        # 1. the next logits of everything that runs
        logits = self._decode(events)
        # 2. waiting requests join; their prompts give their first logits
        logits += self._admit(progress, events)
        if not logits:
            return events
        # 3. one token each
        choices = self._choose(torch.stack(logits))
        # 4. what it says, and who is done; from the last row on, because rows move up
        done: list[int] = []
        for row, (running, choice) in enumerate(zip(self._running, choices, strict=True)):
            events += [(running.submission.ticket, e) for e in self._advance(running, choice)]
            if choice is None or running.answer.finish_reason is not None:
                done.append(row)
        for row in reversed(done):
            self._leave(row)
        return events

    def _decode(self, events: list[TicketedEvent]) -> list[torch.Tensor]:
        if not self._running:
            return []
        try:
            last_ids = [running.sampling.output_ids[-1] for running in self._running]
            self.adapters.set_rows([running.adapter for running in self._running])
            return list(self._runner.decode(last_ids))
        except Exception as error:  # noqa: BLE001 (the border of a step: what it hit must end)
            rows = len(self._running)
            _log_failure("engine.decode.failed", error, rows=rows)
            for running in self._running:
                failure = internal_failure(running.request)
                events.append((running.submission.ticket, failure))
            self._running.clear()
            self._runner.clear()
            return []

    def _admit(self, progress: StepProgress, events: list[TicketedEvent]) -> list[torch.Tensor]:
        """Prefill waiting requests, within this step's share; returns their logits [V]."""
        logits: list[torch.Tensor] = []
        num_tokens = 0
        while (
            self._waiting
            and len(self._running) < self._limits.max_batch
            and num_tokens < PREFILL_TOKENS_PER_STEP
        ):
            submission = self._waiting.popleft()
            request = submission.job.request
            progress.admitting([request.request_id])
            try:
                running, prompt = self._prepare(submission)
                if reason := running.answer.finish_reason:  # only its end was lost
                    events.append((submission.ticket, _finished(running, reason)))
                    continue
                resumed = running.answer.token_ids
                self.adapters.set_rows([running.adapter])
                prefilled = self._runner.prefill(
                    extend_inputs(prompt.inputs, resumed), _image_keys(running)
                )
                self._runner.add_row(prefilled)
            except RequestError as error:
                events.append((submission.ticket, failure_of(request, error)))
            except PromptError as error:
                log.warning("engine.prompt.refused", error=str(error))
                refusal = template_refusal(self._limits.model_id)
                events.append((submission.ticket, failure_of(request, refusal)))
            except Exception as error:  # noqa: BLE001 (the border of a request)
                _log_failure("engine.prefill.failed", error, rows=1)
                events.append((submission.ticket, internal_failure(request)))
            else:
                self._running.append(running)
                logits.append(prefilled.next_logits)
                num_tokens += len(prompt.token_ids) + len(resumed)
        progress.admitting(())  # a death from here on may be anybody's doing
        return logits

    def _prepare(self, submission: Submission) -> tuple[_Running, Prompt]:
        """Check a request and bring it to where it starts, or where an earlier attempt ended."""
        job, limits = submission.job, self._limits
        request, sampling = job.request, job.request.sampling
        refuse_many_images(len(job.images), limits.max_images, limits.model_id)
        adapter = self.adapters.key_of(request)
        refuse_unknown_tokens(sampling, limits.vocab_size, limits.model_id)
        prompt = self._prompts.build_for(request, job.images)
        max_tokens = max_tokens_for(prompt, sampling.max_tokens, limits)
        stops = stops_for(sampling, limits)
        answer = Answer(self._decode_ids, stops, self._eos_ids, max_tokens, sampling.min_tokens)
        answer.replay(request.resume_token_ids)
        row = SamplingRow(sampling, prompt.token_ids, answer.token_ids)
        if submission.guide is not None and answer.finish_reason is None:
            submission.guide.consume(answer.token_ids)
            if submission.guide.is_broken:  # another version of the grammar began the answer
                raise GuidanceError
        counts = len(prompt.token_ids), prompt.num_image_tokens
        return _Running(submission, answer, row, *counts, adapter), prompt

    def _masked(self, logits_BV: torch.Tensor) -> torch.Tensor | None:
        """Return the logits with -inf where a token may not come; None where all may."""
        guided = [row for row, running in enumerate(self._running) if running.guide is not None]
        short = [
            row
            for row, running in enumerate(self._running)
            if running.is_short and running.guide is None
        ]
        if not guided and not short:
            return None
        masked_BV = logits_BV.clone()
        if short:  # all of them at once: on a GPU, each call costs more than its work
            rows = torch.tensor(short, device=masked_BV.device)
            masked_BV[rows[:, None], self._eos_index.to(masked_BV.device)] = -torch.inf
        for row in guided:
            self._mask_row(masked_BV[row], self._running[row])
        return masked_BV

    def _mask_row(self, logits_V: torch.Tensor, running: _Running) -> None:
        """Mask one row in place; where the grammar is complete, `min_tokens` gives way."""
        guide = running.guide
        if guide is not None:
            allowed_V = guide.allowed(logits_V.shape[0]).to(logits_V.device)
            logits_V.masked_fill_(~allowed_V, -torch.inf)
        if running.is_short:
            longer_V = logits_V.index_fill(0, self._eos_index.to(logits_V.device), -torch.inf)
            if guide is None or bool(torch.isfinite(longer_V).any()):
                logits_V.copy_(longer_V)

    def _choose(self, logits_BV: torch.Tensor) -> list[Choice | None]:
        """Choose a token per row; None for a row that has no usable logits or parameters."""
        rows = [running.sampling for running in self._running]
        try:
            return choose_tokens(logits_BV, rows, self._masked(logits_BV))
        except Exception as error:  # noqa: BLE001 (one row's parameters must not end the others)
            _log_failure("engine.sampling.failed", error, rows=len(rows))
        choices: list[Choice | None] = []
        for running, row, logits_V in zip(self._running, rows, logits_BV, strict=True):
            try:
                masked_1V = logits_V.clone()[None]
                self._mask_row(masked_1V[0], running)
                choices += choose_tokens(logits_V[None], [row], masked_1V)
            except Exception:  # noqa: BLE001 (the border of a request)
                choices.append(None)
        return choices

    def _advance(self, running: _Running, choice: Choice | None) -> list[EngineEvent]:
        """Append the chosen token to its answer and return what that says."""
        request = running.request
        if choice is None:
            log.error("engine.token.none_chosen")
            if running.guide is not None and running.guide.is_broken:
                return [failure_of(request, refusal("it grows too large; simplify it"))]
            return [internal_failure(request)]
        if running.prefill_s is None:
            running.prefill_s = time.monotonic() - running.submission.submitted_s
        index = len(running.answer.token_ids)
        text = running.answer.push(choice.token_id)
        if running.guide is not None and running.answer.finish_reason is None:
            running.guide.consume([choice.token_id])
        logprobs = None if choice.logprob is None else [self._logprob(choice, choice.logprob)]
        tokens = Tokens(
            request.request_id, request.attempt, index, [choice.token_id], [text], logprobs
        )
        reason = running.answer.finish_reason
        return [tokens] if reason is None else [tokens, _finished(running, reason)]

    def _leave(self, row: int) -> None:
        self._runner.remove_row(row)
        self._running[row] = self._running[-1]
        self._running.pop()

    def _logprob(self, choice: Choice, logprob: float) -> TokenLogprob:
        top = tuple((i, self._token_text(i), value) for i, value in choice.top)
        return TokenLogprob(choice.token_id, self._token_text(choice.token_id), logprob, top)

    def _decode_ids(self, token_ids: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(
                list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def _decode_one(self, token_id: int) -> str:
        return str(self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False))


def stops_for(sampling: SamplingParams, limits: BatchLimits) -> tuple[str, ...]:
    """Return the request's stop strings and the checkpoint's.

    The latter not where JSON is all that may come: its grammar says where an answer ends, and cut
    JSON is none.
    """
    if sampling.json_schema and not sampling.may_be_text:
        return sampling.stop
    return (*sampling.stop, *limits.stop_strings)


def max_tokens_for(prompt: Prompt, max_tokens: int | None, limits: BatchLimits) -> int:
    """Return the most tokens that an answer may have.

    Raises:
        RequestError: prompt and answer do not fit the context.
    """
    num_prompt_tokens = len(prompt.token_ids)
    wanted = num_prompt_tokens + (1 if max_tokens is None else max_tokens)
    if wanted <= limits.context_length:
        return limits.context_length - num_prompt_tokens if max_tokens is None else max_tokens
    of_images = f" (of them {prompt.num_image_tokens} image tokens)"
    asked = "room for one more is needed" if max_tokens is None else f"max_tokens {max_tokens}"
    raise RequestError(
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
        f"prompt has {num_prompt_tokens} tokens{of_images if prompt.num_image_tokens else ''}, "
        f"{asked}: {wanted} exceed the {limits.context_length}-token context of "
        f"`{limits.model_id}`; shorten the messages"
        f"{'' if max_tokens is None else ' or lower max_tokens'}",
        param="messages",
    )


def _image_keys(running: _Running) -> list[ImageKey]:
    parts = [part for message in running.request.messages for part in message.parts]
    return [ImageKey(p.image.sha256, running.adapter) for p in parts if isinstance(p, ImagePart)]


def _finished(running: _Running, reason: FinishReason) -> Finished:
    return Finished(
        running.request.request_id,
        running.request.attempt,
        reason,
        prompt_tokens=running.num_prompt_tokens,
        completion_tokens=len(running.answer.token_ids),
        prefill_s=running.prefill_s or 0.0,
        image_tokens=running.num_image_tokens,
    )


def _log_failure(event: str, error: Exception, rows: int) -> None:
    """Log what kind of error it was; its message and traceback could quote the prompt."""
    log.error(event, error=type(error).__name__, rows=rows)
