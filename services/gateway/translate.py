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
    AssistantMessage,
    ChatCompletionRequest,
    ChatMessage,
    JsonObjectFormat,
    JsonSchemaFormat,
    TextContent,
    ToolMessage,
)
from services.gateway.tool_calls import (
    call_in,
    call_schema,
    may_be_text,
    offered,
    preamble,
    text_of_calls,
    text_of_result,
)
from services.gateway.tool_schemas import FunctionSpec
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

_ROLES: dict[object, Role] = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant",
    "tool": "user",
}  # fmt: skip
"""Templates know three roles; what a function gave back is said by the user."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request comes from and where its answer goes."""

    request_id: str
    gateway_id: str
    tenant_id: str
    lane: Lane

    def id_of(self, choice: int) -> str:
        """Return the id of a choice's generation; the first has the request's own."""
        return f"{self.request_id}-{choice}" if choice else self.request_id


@dataclass(frozen=True, slots=True)
class Target:
    """Whose queue a request goes to, and with which adapter of that model it runs."""

    model: str
    adapter: str | None = None


def generation_requests(
    chat: ChatCompletionRequest, refs: Sequence[ImageRef], origin: Origin, target: Target
) -> list[GenerationRequest]:
    """Return one request per choice.

    Args:
        refs: one per image of `images_in`, in the same order.
    """
    remaining = iter(refs)
    messages = tuple(_message(message, remaining) for message in chat.messages)
    if functions := functions_of(chat):
        messages = _told_of(preamble(functions, chat.tool_choice), messages)
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
            request_id=origin.id_of(choice),
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
        json_schema=_json_schema(chat),
        may_be_text=bool(chat.tools) and may_be_text(chat.tool_choice),
        logit_bias=_logit_bias(chat.logit_bias) if chat.logit_bias else (),
    )


def functions_of(chat: ChatCompletionRequest) -> list[FunctionSpec]:
    """Return the functions one of which the answer (perhaps) calls; [] where it is a text."""
    return offered(chat.tools, chat.tool_choice) if chat.tools else []


def _told_of(functions: str, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Return a conversation that begins with the functions; a template takes one system message."""
    told = TextPart(functions)
    if messages[0].role == "system":
        first = Message("system", (told, TextPart("\n\n"), *messages[0].parts))
        return (first, *messages[1:])
    return (Message("system", (told,)), *messages)


def _json_schema(chat: ChatCompletionRequest) -> str | None:
    if functions := functions_of(chat):
        return call_schema(functions)
    match chat.response_format:
        case JsonSchemaFormat(json_schema=named):
            return msgspec.json.encode(named.schema).decode()
        case JsonObjectFormat():
            return '{"type":"object"}'
        case _:
            return None


def _logit_bias(biases: dict[str, float]) -> tuple[tuple[int, float], ...]:
    return tuple((int(token_id), float(bias)) for token_id, bias in biases.items())


def _or(value: float | None, default: float) -> float:
    return default if value is None else float(value)


def _other_seed(seed: int, choice: int) -> int:
    """Return the seed of a further choice: another one, but always the same for (seed, choice)."""
    mixed = (seed + choice * 0x9E3779B97F4A7C15) % 2**64  # 2^64 / golden ratio, odd
    return mixed - 2**64 if mixed >= 2**63 else mixed


def _message(message: ChatMessage, refs: Iterator[ImageRef]) -> Message:
    role = _role(message)
    if isinstance(message, AssistantMessage) and message.tool_calls:
        calls = TextPart(text_of_calls(message.tool_calls))
        said = _text_parts(message.content) if message.content else ()
        return Message(role, (*said, calls))
    if isinstance(message, ToolMessage):
        result = "".join(part.text for part in _text_parts(message.content))
        return Message(role, (TextPart(text_of_result(message.tool_call_id, result)),))
    if message.content is None or isinstance(message.content, str):
        return Message(role, (TextPart(message.content or ""),))
    parts: list[TextPart | ImagePart] = []
    for part in message.content:
        if isinstance(part, TextContent):
            parts.append(TextPart(part.text))
        else:
            parts.append(ImagePart(next(refs)))
    return Message(role, tuple(parts))


def _text_parts(content: str | list[TextContent]) -> tuple[TextPart, ...]:
    if isinstance(content, str):
        return (TextPart(content),)
    return tuple(TextPart(part.text) for part in content)


def _role(message: ChatMessage) -> Role:
    return _ROLES[message.__struct_config__.tag]


def usage_of(finished: Sequence[Finished]) -> Usage:
    """Return the usage of all choices; the prompt counts once, as at OpenAI."""
    prompt = finished[0].prompt_tokens
    completion = sum(each.completion_tokens for each in finished)
    return Usage(prompt, completion, prompt + completion)


@dataclass(frozen=True, slots=True)
class ChoiceAnswer:
    """All that was generated for a choice."""

    text: str
    logprobs: Sequence[TokenLogprob]
    finished: Finished


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

    def answers(self) -> list[ChoiceAnswer]:
        """Return the answer of each choice; every one has ended."""
        return [
            ChoiceAnswer("".join(collected.texts), collected.logprobs, end)
            for collected, end in zip(self._choices, self.ends, strict=True)
        ]

    def build(
        self, request_id: str, model: str, created: int, *, logprobs: bool, calls: bool = False
    ) -> ChatCompletion:
        """Return the answer; every choice has ended.

        Args:
            calls: the answers are calls of functions.
        """
        choices: list[Choice] = []
        for index, answer in enumerate(self.answers()):
            call = call_in(answer.text, request_id, index) if calls else None
            found = ChoiceLogprobs(logprobs_content(answer.logprobs)) if logprobs else None
            if call is None:
                message, reason = AnswerMessage(answer.text), answer.finished.finish_reason
            else:
                message, reason = AnswerMessage(None, tool_calls=[call]), "tool_calls"
            choices.append(Choice(index, message, reason, found))
        return ChatCompletion(request_id, created, model, choices, usage_of(self.ends))
