"""OpenAI's chat dialect as msgspec structs: what we read, with every range closed.

Unknown fields are refused by name: a parameter that would be ignored in silence is worse than an
error. Source of names and ranges: OpenAI's API reference, chat completions; `top_k` and
`repetition_penalty` as vLLM and transformers spell them. Why msgspec and not pydantic:
docs/decisions/0006-msgspec-at-the-http-border.md.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from services.gateway.file_parts import FileContent, url_in
from services.gateway.refused_fields import CHAT, why_refused
from services.gateway.tool_schemas import (
    CallId,
    NamedToolChoice,
    ToolCalls,
    ToolChoice,
    Tools,
)
from services.protocol.errors import ErrorCode, RequestError

S = TypeVar("S", bound=msgspec.Struct)

MAX_MESSAGES = 256
MAX_CHOICES = 8
MAX_TOKENS = 1_000_000
MAX_STOPS = 4
MAX_STOP_LENGTH = 256
MAX_TEXT_LENGTH = 4 << 20
MAX_NAME_LENGTH = 4096
MAX_SCHEMA_BYTES = 64 << 10
MAX_BIASES = 1024

Text = Annotated[str, Meta(max_length=MAX_TEXT_LENGTH)]
Stop = Annotated[str, Meta(min_length=1, max_length=MAX_STOP_LENGTH)]
TokenBudget = Annotated[int, Meta(ge=1, le=MAX_TOKENS)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
ImageDetail = Literal["auto", "low", "high"]
TokenId = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,8})$(?!\n)")]
LogitBias = Annotated[
    dict[TokenId, Annotated[float, Meta(ge=-100.0, le=100.0)]], Meta(max_length=MAX_BIASES)
]


class _Strict(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    pass


class TextContent(_Strict, frozen=True, gc=False, tag_field="type", tag="text"):
    """A part of text."""

    text: Text


class WindowValues(_Strict, frozen=True, gc=False):
    """A window in the values of its modality (Hounsfield units in CT)."""

    center: float
    width: float


class ImagePreprocess(_Strict, frozen=True, gc=False):
    """Galen's own: which part of a DICOM or NIfTI file is shown, and in which window.

    Args:
        mode: of any image: how it becomes the square of a model that has one.
    """

    recipe: Annotated[str, Meta(max_length=64)] | None = None
    window: Annotated[str, Meta(max_length=64)] | WindowValues | None = None
    frame: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    slice: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    plane: Literal["axial", "coronal", "sagittal"] | None = None
    mode: Literal["crop", "pad", "resize"] | None = None


class ImageUrl(_Strict, frozen=True, gc=False):
    """Where an image is, and how it becomes what the model sees."""

    url: str
    detail: ImageDetail = "auto"
    preprocess: ImagePreprocess | None = None


class ImageContent(_Strict, frozen=True, gc=False, tag_field="type", tag="image_url"):
    """A part that is an image."""

    image_url: ImageUrl


UserParts = Annotated[
    list[TextContent | ImageContent | FileContent], Meta(min_length=1, max_length=256)
]
TextParts = Annotated[list[TextContent], Meta(min_length=1, max_length=256)]


class SystemMessage(_Strict, frozen=True, gc=False, tag_field="role", tag="system"):
    """What the model is told first."""

    content: Text | TextParts


class DeveloperMessage(_Strict, frozen=True, gc=False, tag_field="role", tag="developer"):
    """OpenAI's newer name of a system message."""

    content: Text | TextParts


class UserMessage(_Strict, frozen=True, gc=False, tag_field="role", tag="user"):
    """What the user says and shows."""

    content: Text | UserParts


class AssistantMessage(_Strict, frozen=True, gc=False, tag_field="role", tag="assistant"):
    """What the model answered before, or the functions that it called."""

    content: Text | TextParts | None = None
    tool_calls: ToolCalls | None = None
    refusal: None = None


class ToolMessage(_Strict, frozen=True, gc=False, tag_field="role", tag="tool"):
    """What a function gave back."""

    content: Text | TextParts
    tool_call_id: CallId


ChatMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class StreamOptions(_Strict, frozen=True, gc=False):
    """`include_usage`: a last chunk without choices holds the usage."""

    include_usage: bool = False


class TextFormat(_Strict, frozen=True, gc=False, tag_field="type", tag="text"):
    """Free text: the default."""


class JsonObjectFormat(_Strict, frozen=True, gc=False, tag_field="type", tag="json_object"):
    """Any JSON object."""


class JsonSchema(_Strict, frozen=True, gc=False):
    """A JSON Schema with its name; it always binds, whatever `strict` says."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    schema: dict[str, Any]
    strict: bool | None = None
    description: Annotated[str, Meta(max_length=MAX_NAME_LENGTH)] | None = None


class JsonSchemaFormat(_Strict, frozen=True, gc=False, tag_field="type", tag="json_schema"):
    """JSON that obeys a schema."""

    json_schema: JsonSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


def images_in(messages: Iterable[ChatMessage]) -> Iterator[tuple[ImageUrl, str]]:
    """Yield every image with the path of its URL, in the order of the conversation.

    A file counts as the image that it has to be; raises RequestError where it cannot be one.
    """
    for i, message in enumerate(messages):
        if not isinstance(message, UserMessage) or isinstance(message.content, str):
            continue
        for j, part in enumerate(message.content):
            place = f"messages[{i}].content[{j}]"
            if isinstance(part, ImageContent):
                yield part.image_url, f"{place}.image_url.url"
            elif isinstance(part, FileContent):
                url, param = url_in(part.file, f"{place}.file")
                yield ImageUrl(url), param


def texts_in(messages: Iterable[ChatMessage]) -> Iterator[str]:
    """Yield the text of each message; parts are put together as the model reads them."""
    for message in messages:
        if isinstance(message.content, str):
            yield message.content
        elif message.content is not None:
            parts = [part.text for part in message.content if isinstance(part, TextContent)]
            if parts:
                yield "".join(parts)


class ChatCompletionRequest(_Strict, frozen=True, gc=False):
    """The body of POST /v1/chat/completions; null means the default, as at OpenAI."""

    model: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenBudget | None = None
    max_completion_tokens: TokenBudget | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=1_000_000)] | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = None
    stop: Stop | Annotated[list[Stop], Meta(min_length=1, max_length=MAX_STOPS)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=10.0)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=MAX_TOKENS)] | None = None
    logit_bias: LogitBias | None = None
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None


_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$\.?(.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*?)`(?: - at `\$\.?(.*)`)?$")
_PLACE = re.compile(r"(.*) - at `(?:key in |key` in `)?\$\.?(.*)`$", re.DOTALL)
_BOUND = re.compile(r"Expected `(\w+)`( of length)? (<=|>=|<|>) (\S+)$")
_TYPE = re.compile(r"Expected `([\w |]+)`, got `(\w+)`$")
_BOUND_WORDS = {"<=": "of at most", ">=": "of at least", "<": "below", ">": "above"}
_UNITS = {"str": "characters", "array": "entries"}
_TYPE_WORDS = {
    "int": "an integer", "float": "a number", "str": "a string", "bool": "a boolean",
    "array": "an array", "object": "an object", "null": "null", "NoneType": "null",
}  # fmt: skip
_SHOWN = 200
_NO_REASONS: Mapping[str, str] = {}


def read_chat_request(value: Any) -> ChatCompletionRequest:
    """Return the request in a parsed JSON value; raises RequestError with its parameter's name."""
    request = converted(value, ChatCompletionRequest, CHAT)
    check_together(request)
    check_tools(request)
    _check_messages(request.messages)
    return request


def check_together(request: ChatCompletionRequest) -> None:
    """Check what no single field can say."""
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        _refuse("max_tokens", "max_tokens and max_completion_tokens mean the same: send one")
    if request.top_logprobs is not None and not request.logprobs:
        _refuse("top_logprobs", "top_logprobs needs logprobs: true")
    if request.stream_options is not None and not request.stream:
        _refuse("stream_options", "stream_options needs stream: true")
    most = request.max_completion_tokens or request.max_tokens
    if request.min_tokens is not None and most is not None and request.min_tokens > most:
        _refuse("min_tokens", f"min_tokens {request.min_tokens} is above max_tokens {most}")
    if isinstance(request.response_format, JsonSchemaFormat):
        schema = msgspec.json.encode(request.response_format.json_schema.schema)
        _check_schema_size("response_format", len(schema))
    if request.top_k == 0:
        _refuse("top_k", "top_k must be -1 (every token) or at least 1")


def _check_messages(messages: list[ChatMessage]) -> None:
    for i, message in enumerate(messages):
        if message.content is None and not message.tool_calls:
            name = f"messages[{i}].content"
            raise RequestError(
                ErrorCode.MISSING_PARAMETER,
                f"the required parameter {name!r} is missing",
                param=name,
            )


def check_tools(request: ChatCompletionRequest) -> None:
    """Check functions and the choice of one against each other."""
    if request.parallel_tool_calls:
        raise RequestError(
            ErrorCode.UNSUPPORTED_PARAMETER,
            "parallel_tool_calls: an answer has one call at most; send false",
            param="parallel_tool_calls",
        )
    if request.tools is None and request.tool_choice is None:
        return
    tools, choice = request.tools or [], request.tool_choice
    names = [tool.function.name for tool in tools]
    if len(set(names)) < len(names):
        _refuse("tools", "two functions have the same name")
    if isinstance(choice, NamedToolChoice) and choice.function.name not in names:
        _refuse("tool_choice", "tool_choice names a function that is not in tools")
    if choice == "required" and not tools:
        _refuse("tool_choice", "tool_choice required needs tools")
    if tools and choice != "none" and request.response_format is not None:
        _refuse("response_format", "an answer that may call a function takes no response_format")
    _check_schema_size("tools", len(msgspec.json.encode(tools)))


def _check_schema_size(param: str, size: int) -> None:
    if size > MAX_SCHEMA_BYTES:
        _refuse(param, f"the schema has {size} bytes, at most {MAX_SCHEMA_BYTES}")


def _refuse(param: str, message: str) -> None:
    raise RequestError(ErrorCode.INVALID_VALUE, message, param=param)


def converted(body: Any, struct: type[S], reasons: Mapping[str, str] = _NO_REASONS) -> S:
    """Return a body, any JSON, as a struct of ours; raises RequestError.

    Args:
        reasons: why fields are refused, by their names.
    """
    try:
        return msgspec.convert(body, struct)
    except msgspec.ValidationError as error:
        raise refusal_of(str(error), reasons) from None


def refusal_of(problem: str, reasons: Mapping[str, str] = _NO_REASONS) -> RequestError:
    """Return the error for a complaint of msgspec, whose texts hold names and ranges only."""
    if match := _UNKNOWN.match(problem):
        name = _path(match[2], match[1])[:_SHOWN]
        why = why_refused(name, reasons)
        message = f"the parameter {name!r} is not supported here{why}; leave it out"
        return RequestError(ErrorCode.UNSUPPORTED_PARAMETER, message, param=name)
    if match := _MISSING.match(problem):
        name = _path(match[2], match[1])
        message = f"the required parameter {name!r} is missing"
        return RequestError(ErrorCode.MISSING_PARAMETER, message, param=name)
    place = _PLACE.match(problem)
    param = place[2] if place else None
    if place and "`str` of length <=" in problem and param is not None:
        code = ErrorCode.INVALID_VALUE if param.startswith("stop") else ErrorCode.STRING_TOO_LONG
        return RequestError(code, _sentence(param, place[1]), param=param)
    message = _sentence(param or "the body", (place[1] if place else problem)[:_SHOWN])
    return RequestError(ErrorCode.INVALID_VALUE, message, param=param)


def _sentence(subject: str, complaint: str) -> str:
    """Return a complaint of msgspec's in plain words, where its form is a known one."""
    if match := _BOUND.match(complaint):
        kind, of_length, sign, number = match.groups()
        words = f"{_BOUND_WORDS[sign]} {number}"
        if of_length:
            return f"{subject} must have {words.removeprefix('of ')} {_UNITS.get(kind, 'parts')}"
        return f"{subject} must be {_TYPE_WORDS.get(kind, kind)} {words}"
    if match := _TYPE.match(complaint):
        allowed = " or ".join(_TYPE_WORDS.get(kind, kind) for kind in match[1].split(" | "))
        return f"{subject} must be {allowed}, not {_TYPE_WORDS.get(match[2], match[2])}"
    return f"{subject}: {complaint}"


def _path(parent: str | None, name: str) -> str:
    return f"{parent}.{name}" if parent else name
