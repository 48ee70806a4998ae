"""One request on its way into vLLM and out again: prompt, limits, parameters; tokens, text, end.

Lives here: what is computed of a request before vLLM gets it (in a thread of its own: templates and
image processors are slow), and what vLLM's outputs mean. What does *not* live here: when that
happens (`vllm_engine.py`) and the choice of tokens (`vllm_sampling.py`).
"""

# pyright: reportMissingImports=false
# (vLLM lives in a virtual environment of its own)

import functools
import itertools
import math
import time
from dataclasses import dataclass
from typing import Any

import structlog
from transformers import ProcessorMixin
from vllm.exceptions import VLLMValidationError
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams
from vllm.tasks import SupportedTask
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.async_llm import AsyncLLM

from services.protocol.errors import ErrorCode, RequestError
from services.protocol.messages import (
    EngineEvent,
    Finished,
    FinishReason,
    GenerationRequest,
    ImagePart,
    ImageRecipe,
    TokenLogprob,
    Tokens,
)
from services.protocol.messages import SamplingParams as OurSamplingParams
from services.worker.engines.answer import Answer
from services.worker.engines.base import EngineJob
from services.worker.engines.batch_scheduler import BatchLimits, max_tokens_for, stops_for
from services.worker.engines.chat_prompt import Prompt, PromptBuilder, PromptError
from services.worker.engines.checkpoint import image_token_id_of, tokenizer_of
from services.worker.engines.endings import (
    internal_failure,
    refuse_many_images,
    refuse_unknown_tokens,
    template_refusal,
)
from services.worker.engines.schema_check import text_or_json_grammar_of
from services.worker.engines.vllm_sampling import extra_args

_log = structlog.get_logger(__name__)

# OpenAI's stand-in for the logarithm of 0: a token that a JSON schema forbids. Under a schema, vLLM
# takes log-probabilities after its mask, our transformers engine before it: vLLM's runner masks the
# logits before anything of ours sees them, and its `logprobs_mode` has no word in that.
_FORBIDDEN_LOGPROB = -9999.0


@dataclass(slots=True)
class Prepared:
    """A request that vLLM can take.

    Args:
        core_request: None where the resumed tokens are the whole answer already.
        number: what vLLM's workers call it in a `FaultLog`.
        num_prompt_tokens: image tokens included, resumed tokens not.
    """

    answer: Answer
    core_request: EngineCoreRequest | None
    number: int
    num_prompt_tokens: int
    num_image_tokens: int


@dataclass(slots=True, eq=False)
class LiveRequest:
    """A request in the engine's hands; one that was aborted is no longer in its table."""

    job: EngineJob
    submitted_s: float
    prepared: Prepared | None = None
    core_id: str | None = None  # vLLM's own name of it, once it was sent
    prefill_s: float | None = None
    adapter: LoRARequest | None = None
    is_faulty: bool = False  # its logits were not finite

    @property
    def request(self) -> GenerationRequest:
        return self.job.request


class RequestMaker:
    """Prepares requests; used from one thread only."""

    def __init__(
        self,
        llm: AsyncLLM,
        processor: ProcessorMixin,
        recipe: ImageRecipe | None,
        limits: BatchLimits,
        tasks: tuple[SupportedTask, ...],
        faults: str,
    ) -> None:
        self._llm = llm
        self._faults = faults
        self._numbers = itertools.count(1)
        self._limits = limits
        self._tasks = tasks
        self._image_token_id = image_token_id_of(llm.model_config.hf_config, processor)
        self._prompts = PromptBuilder(processor, self._image_token_id, recipe)
        self._backend: Any = tokenizer_of(processor).backend_tokenizer
        self._token_text = functools.lru_cache(maxsize=16384)(self._decode_one)

    def prepare(self, job: EngineJob, adapter: LoRARequest | None) -> Prepared:
        """Render, expand, check.

        Raises:
            RequestError: the request is at fault.
        """
        request, limits = job.request, self._limits
        refuse_many_images(len(job.images), limits.max_images, limits.model_id)
        refuse_unknown_tokens(request.sampling, limits.vocab_size, limits.model_id)
        engine_input = self._engine_input(job)
        prompt_ids: list[int] = engine_input["prompt_token_ids"]
        num_prompt_tokens = len(prompt_ids)
        num_image_tokens = sum(i == self._image_token_id for i in prompt_ids) if job.images else 0
        prompt = Prompt({}, prompt_ids, num_image_tokens)
        sampling = request.sampling
        max_tokens = max_tokens_for(prompt, sampling.max_tokens, limits)
        stops = stops_for(sampling, limits)
        answer = Answer(self._decode_ids, stops, limits.eos_ids, max_tokens, sampling.min_tokens)
        answer.replay(request.resume_token_ids)
        number = next(self._numbers)
        if answer.finish_reason is not None:
            return Prepared(answer, None, number, num_prompt_tokens, num_image_tokens)
        engine_input["prompt_token_ids"] = [*prompt_ids, *request.resume_token_ids]
        params = self._sampling_params(request, max_tokens, number)
        try:
            core_request = self._llm.input_processor.process_inputs(
                request.request_id,
                engine_input,
                params,
                supported_tasks=self._tasks,
                lora_request=adapter,
            )
        except VLLMValidationError as error:
            raise self._refusal(request, error) from error
        self._llm.input_processor.assign_request_id(core_request)
        return Prepared(answer, core_request, number, num_prompt_tokens, num_image_tokens)

    def advance(self, live: LiveRequest, output: RequestOutput) -> list[EngineEvent]:
        """Return what an output of vLLM says; `live.prepared.answer` may have ended then."""
        assert live.prepared is not None  # noqa: S101 (it was sent)
        request, answer = live.request, live.prepared.answer
        if live.prefill_s is None:
            live.prefill_s = time.monotonic() - live.submitted_s
        completion = output.outputs[0]
        index = len(answer.token_ids)
        texts: list[str] = []
        for token_id in completion.token_ids:
            if answer.finish_reason is not None:
                break
            texts.append(answer.push(token_id))
        events: list[EngineEvent] = []
        if texts:
            token_ids = list(completion.token_ids[: len(texts)])
            logprobs = self._logprobs(request, completion, token_ids)
            events.append(
                Tokens(request.request_id, request.attempt, index, token_ids, texts, logprobs)
            )
        if answer.finish_reason is not None:
            events.append(finished(live, answer.finish_reason))
        elif output.finished:  # never before our own end, unless vLLM gave up
            _log.error("engine.request.ended", reason=completion.finish_reason)
            events.append(internal_failure(request))
        return events

    def _engine_input(self, job: EngineJob) -> Any:  # vLLM's union of typed dicts
        """Return the prompt as vLLM processed it: images expanded, pixels made."""
        request = job.request
        try:
            token_ids = self._prompts.ids_for(request, job.images)
        except PromptError as error:
            _log.warning("engine.prompt.refused", error=str(error))
            raise template_refusal(self._limits.model_id) from error
        # Another tenant's prompts are never found in the prefix cache: that would tell what it
        # asked. The same holds for images: their hash names the tenant, too.
        prompt = TokensPrompt(prompt_token_ids=token_ids, cache_salt=request.tenant_id)
        if job.images:
            hashes = [
                part.image.sha256
                for message in request.messages
                for part in message.parts
                if isinstance(part, ImagePart)
            ]
            prompt["multi_modal_data"] = {"image": self._prompts.fitted(job.images)}
            prompt["multi_modal_uuids"] = {"image": hashes}
            prompt["mm_processor_kwargs"] = {"backend": "pil"}
        # vLLM's cache on both sides counts on every prepared request to be sent: ours may end
        # before that, so it is skipped, and images that come again are kept on this side only.
        return self._llm.renderer.process_for_engine(prompt, time.monotonic(), skip_mm_cache=True)

    def _sampling_params(
        self, request: GenerationRequest, max_tokens: int, number: int
    ) -> SamplingParams:
        sampling, num_resumed = request.sampling, len(request.resume_token_ids)
        left = max_tokens - num_resumed
        schema = sampling.json_schema
        return SamplingParams(
            max_tokens=left,
            # under a schema our own does it: vLLM's would leave a finished answer no token at all
            min_tokens=0 if schema else min(left, max(0, sampling.min_tokens - num_resumed)),
            temperature=0.0,  # what else there is to choose, `TokenChooser` does
            stop_token_ids=sorted(self._limits.eos_ids),
            ignore_eos=True,  # the tokenizer's own, where the checkpoint names others
            logprobs=sampling.logprobs,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            structured_outputs=_structure_of(sampling),
            extra_args=extra_args(
                sampling, number=number, faults=self._faults, num_resumed=num_resumed
            ),
        )

    def _refusal(self, request: GenerationRequest, error: VLLMValidationError) -> RequestError:
        """Return our error for vLLM's; its text may quote the request, so it is not passed on."""
        _log.warning("engine.request.refused", error=type(error).__name__)
        if request.sampling.json_schema is not None:
            return RequestError(
                ErrorCode.INVALID_VALUE,
                "this JSON schema cannot be compiled into a grammar; simplify it",
                param="response_format",
            )
        return RequestError(
            ErrorCode.INVALID_VALUE,
            f"`{self._limits.model_id}` does not take these messages",
            param="messages",
        )

    def _logprobs(
        self, request: GenerationRequest, completion: CompletionOutput, token_ids: list[int]
    ) -> list[TokenLogprob] | None:
        num_top = request.sampling.logprobs
        if num_top is None or completion.logprobs is None:
            return None
        found: list[TokenLogprob] = []
        for token_id, entries in zip(token_ids, completion.logprobs, strict=False):
            values = {i: _finite(entry.logprob) for i, entry in entries.items()}
            best = sorted(values.items(), key=lambda item: -item[1])[:num_top]
            top = tuple((i, self._token_text(i), value) for i, value in best)
            text = self._token_text(token_id)
            found.append(TokenLogprob(token_id, text, values[token_id], top))
        return found

    def _decode_ids(self, token_ids: Any) -> str:
        return str(self._backend.decode(list(token_ids), skip_special_tokens=True))

    def _decode_one(self, token_id: int) -> str:
        return str(self._backend.decode([token_id], skip_special_tokens=False))


def finished(live: LiveRequest, reason: FinishReason) -> Finished:
    """Return the good end of a prepared request."""
    assert live.prepared is not None  # noqa: S101 (our own order of calls)
    return Finished(
        live.request.request_id,
        live.request.attempt,
        reason,
        prompt_tokens=live.prepared.num_prompt_tokens,
        completion_tokens=len(live.prepared.answer.token_ids),
        prefill_s=live.prefill_s or 0.0,
        image_tokens=live.prepared.num_image_tokens,
    )


def _structure_of(sampling: OurSamplingParams) -> StructuredOutputsParams | None:
    """Return what an answer is bound to."""
    schema = sampling.json_schema
    if schema is None:
        return None
    if sampling.may_be_text:
        return StructuredOutputsParams(grammar=text_or_json_grammar_of(schema))
    return StructuredOutputsParams(json=schema)


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else _FORBIDDEN_LOGPROB
