"""From OpenAI's request to ours, and from our events to OpenAI's answer. Pure."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from services.gateway.chunks import (
    AnswerMessage,
    ChatCompletion,
    Choice,
    ChoiceLogprobs,
    Usage,
    logprobs_content,
)
from services.gateway.openai_schemas import (
    ChatCompletionRequest,
    ChatMessage,
    ImageContent,
    ImageUrl,
    JsonObjectFormat,
    JsonSchemaFormat,
    ResponseFormat,
    UserMessage,
)
from services.protocol.messages import (
    Finished,
    GenerationRequest,
    ImagePart,
    ImageRef,
    Lane,
    Message,
    Role,
    SamplingParams,
    TextPart,
    TokenLogprob,
    Tokens,
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from and where its answer goes."""

    request_id: str
    gateway_id: str
    tenant_id: str
    lane: Lane


@dataclass(frozen=True, slots=True)
class Target:
    """Whose queue a request goes to, and with which adapter of that model it runs."""

    model: str
    adapter: str | None = None


def image_urls(chat: ChatCompletionRequest) -> Iterator[tuple[ImageUrl, str]]:
    """Yield (image, path of its URL) of every image, in the order of the conversation."""
    for i, message in enumerate(chat.messages):
        if isinstance(message, UserMessage) and not isinstance(message.content, str):
            for j, part in enumerate(message.content):
                if isinstance(part, ImageContent):
                    yield part.image_url, f"messages[{i}].content[{j}].image_url.url"


def generation_requests(
    chat: ChatCompletionRequest, refs: Sequence[ImageRef], origin: Origin, target: Target
) -> list[GenerationRequest]:
    """Return one request per choice.

    Args:
        refs: one per image of `image_urls`, in the same order.
    """
    remaining = iter(refs)
    messages = tuple(_message(message, remaining) for message in chat.messages)
    seed = chat.seed if chat.seed is not None else secrets.randbits(63)
    first = GenerationRequest(
        request_id=origin.request_id,
        gateway_id=origin.gateway_id,
        tenant_id=origin.tenant_id,
        model=target.model,
        adapter=target.adapter,
        lane=origin.lane,
        messages=messages,
        sampling=_sampling(chat, seed),
        stream=bool(chat.stream),
    )
    return [first] + [
        msgspec.structs.replace(
            first,
            request_id=f"{origin.request_id}-{choice}",
            sampling=_sampling(chat, _other_seed(seed, choice)),
        )
        for choice in range(1, chat.n or 1)
    ]


def _sampling(chat: ChatCompletionRequest, seed: int) -> SamplingParams:
    stop = (chat.stop,) if isinstance(chat.stop, str) else tuple(chat.stop or ())
    logprobs = (chat.top_logprobs or 0) if chat.logprobs else None
    return SamplingParams(
        max_tokens=chat.max_completion_tokens or chat.max_tokens,
        temperature=_or(chat.temperature, 1.0),
        top_p=_or(chat.top_p, 1.0),
        top_k=-1 if chat.top_k is None else chat.top_k,
        stop=stop,
        seed=seed,
        presence_penalty=_or(chat.presence_penalty, 0.0),
        frequency_penalty=_or(chat.frequency_penalty, 0.0),
        repetition_penalty=_or(chat.repetition_penalty, 1.0),
        logprobs=logprobs,
        min_tokens=chat.min_tokens or 0,
        json_schema=_json_schema(chat.response_format),
    )


def _json_schema(wanted: ResponseFormat | None) -> str | None:
    match wanted:
        case JsonSchemaFormat(json_schema=named):
            return msgspec.json.encode(named.schema).decode()
        case JsonObjectFormat():
            return '{"type":"object"}'
        case _:
            return None


def _or(value: float | None, default: float) -> float:
    return default if value is None else float(value)


def _other_seed(seed: int, choice: int) -> int:
    """Return the seed of a further choice: another one, but always the same for (seed, choice)."""
    mixed = (seed + choice * 0x9E3779B97F4A7C15) % 2**64  # 2^64 / golden ratio, odd
    return mixed - 2**64 if mixed >= 2**63 else mixed


def _message(message: ChatMessage, refs: Iterator[ImageRef]) -> Message:
    role = _role(message)
    if isinstance(message.content, str):
        return Message(role, (TextPart(message.content),))
    parts: list[TextPart | ImagePart] = []
    for part in message.content:
        if isinstance(part, ImageContent):
            parts.append(ImagePart(next(refs)))
        else:
            parts.append(TextPart(part.text))
    return Message(role, tuple(parts))


def _role(message: ChatMessage) -> Role:
    tag = message.__struct_config__.tag
    return "system" if tag in ("system", "developer") else "user" if tag == "user" else "assistant"


def usage_of(finished: Sequence[Finished]) -> Usage:
    """Return the usage of all choices; the prompt counts once, as at OpenAI."""
    prompt = finished[0].prompt_tokens
    completion = sum(each.completion_tokens for each in finished)
    return Usage(prompt, completion, prompt + completion)


@dataclass(slots=True)
class _ChoiceText:
    texts: list[str] = field(default_factory=list[str])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    finished: Finished | None = None


class CompletionBuilder:
    """Collects the events of all choices into one answer."""

    def __init__(self, num_choices: int) -> None:
        self._choices = [_ChoiceText() for _ in range(num_choices)]
        self._open = num_choices

    def add_tokens(self, choice: int, event: Tokens) -> None:
        """Append tokens to a choice."""
        collected = self._choices[choice]
        collected.texts += event.texts
        collected.logprobs += event.logprobs or ()

    def add_end(self, choice: int, event: Finished) -> None:
        """End a choice."""
        self._choices[choice].finished = event
        self._open -= 1

    @property
    def is_complete(self) -> bool:
        """Whether every choice has ended."""
        return self._open == 0

    @property
    def ends(self) -> list[Finished]:
        """The ends of the choices that have ended, by index."""
        return [c.finished for c in self._choices if c.finished is not None]

    def build(self, request_id: str, model: str, created: int, *, logprobs: bool) -> ChatCompletion:
        """Return the answer; every choice has ended."""
        choices = [
            Choice(
                index,
                AnswerMessage("".join(collected.texts)),
                end.finish_reason,
                ChoiceLogprobs(logprobs_content(collected.logprobs)) if logprobs else None,
            )
            for index, (collected, end) in enumerate(zip(self._choices, self.ends, strict=True))
        ]
        return ChatCompletion(request_id, created, model, choices, usage_of(self.ends))
