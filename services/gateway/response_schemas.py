"""OpenAI's responses as msgspec structs: what we read, and the same wishes as a chat completion.

Source of names: OpenAI's API reference, responses. What is refused, and why: `refused_fields.py`.
Pure.
"""

from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta

from services.gateway.file_parts import FileContent, InputFile, url_in
from services.gateway.openai_schemas import (
    MAX_MESSAGES,
    MAX_NAME_LENGTH,
    AssistantMessage,
    ChatCompletionRequest,
    ChatMessage,
    ImageContent,
    ImageDetail,
    ImagePreprocess,
    ImageUrl,
    JsonObjectFormat,
    JsonSchema,
    JsonSchemaFormat,
    SystemMessage,
    Text,
    TextContent,
    TextFormat,
    TokenBudget,
    UserMessage,
    check_together,
    check_tools,
    converted,
)
from services.gateway.refused_fields import RESPONSES
from services.gateway.response_tools import (
    FunctionCallOutput,
    ResponseChoice,
    ResponseFunctionCall,
    ResponseTools,
    chat_choice,
    chat_tools,
    with_item,
)
from services.protocol.errors import ErrorCode, RequestError

MAX_METADATA = 16
LOGPROBS = "message.output_text.logprobs"

Metadata = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=64)], Annotated[str, Meta(max_length=512)]
    ],
    Meta(max_length=MAX_METADATA),
]  # fmt: skip
ShortText = Annotated[str, Meta(max_length=MAX_NAME_LENGTH)]


class _Strict(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    pass


class InputText(_Strict, frozen=True, gc=False, tag_field="type", tag="input_text"):
    """A part of text."""

    text: Text


class InputImage(_Strict, frozen=True, gc=False, tag_field="type", tag="input_image"):
    """A part that is an image."""

    image_url: str | None = None
    file_id: ShortText | None = None
    detail: ImageDetail = "auto"
    preprocess: ImagePreprocess | None = None


class OutputText(_Strict, frozen=True, gc=False, tag_field="type", tag="output_text"):
    """A part of an earlier answer, as we gave it."""

    text: Text
    annotations: Annotated[list[Any], Meta(max_length=0)] | None = None
    logprobs: list[Any] | None = None


ResponseParts = Annotated[
    list[InputText | InputImage | InputFile | OutputText], Meta(min_length=1, max_length=256)
]


class ResponseMessage(_Strict, frozen=True, gc=False, tag_field="type", tag="message"):
    """A turn: what a user says and shows, or an item of an earlier answer's `output`."""

    role: Literal["user", "system", "developer", "assistant"]
    content: Text | ResponseParts
    id: ShortText | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None
    phase: Literal["final_answer"] | None = None


InputItem = ResponseMessage | ResponseFunctionCall | FunctionCallOutput


class NamedSchemaFormat(_Strict, frozen=True, gc=False, tag_field="type", tag="json_schema"):
    """JSON that obeys a schema; it always binds, whatever `strict` says."""

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    schema: dict[str, Any]
    strict: bool | None = None
    description: ShortText | None = None


class TextOptions(_Strict, frozen=True, gc=False):
    """What kind of text the answer is."""

    format: TextFormat | JsonObjectFormat | NamedSchemaFormat | None = None


class ResponseRequest(_Strict, frozen=True, gc=False):
    """The body of POST /v1/responses; null means the default, as at OpenAI."""

    model: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
    input: Text | Annotated[list[InputItem], Meta(min_length=1, max_length=MAX_MESSAGES)]
    instructions: Text | None = None
    stream: bool | None = None
    max_output_tokens: TokenBudget | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    text: TextOptions | None = None
    include: Annotated[list[Literal["message.output_text.logprobs"]], Meta(max_length=1)] | None = (
        None
    )
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: ResponseTools | None = None
    tool_choice: ResponseChoice | None = None
    parallel_tool_calls: Literal[False] | None = None
    metadata: Metadata | None = None
    store: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    user: Annotated[str, Meta(max_length=512)] | None = None


def read_response_request(value: object) -> ResponseRequest:
    """Return the request in a parsed JSON value; raises RequestError with its parameter's name."""
    _refuse_with_reason(value)
    return converted(_with_types(value), ResponseRequest, RESPONSES)


def as_chat(request: ResponseRequest) -> ChatCompletionRequest:
    """Return the same wishes in the words of a chat completion; raises RequestError."""
    messages: list[ChatMessage] = []
    if request.instructions:
        messages.append(SystemMessage(request.instructions))
    if isinstance(request.input, str):
        messages.append(UserMessage(request.input))
    else:
        for i, item in enumerate(request.input):
            if isinstance(item, ResponseMessage):
                messages.append(_message(item, f"input[{i}]"))
            else:
                messages = with_item(messages, item)
    wants_logprobs = bool(request.include) or request.top_logprobs is not None
    chat = ChatCompletionRequest(
        model=request.model,
        messages=messages,
        stream=request.stream,
        max_completion_tokens=request.max_output_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        logprobs=True if wants_logprobs else None,
        top_logprobs=request.top_logprobs,
        response_format=_format(request.text),
        tools=chat_tools(request.tools),
        tool_choice=chat_choice(request.tool_choice),
        user=request.user,
    )
    check_together(chat)
    check_tools(chat)
    return chat


def asked_images(request: ResponseRequest) -> list[tuple[ImageUrl, str]]:
    """Return every image with the path of its URL, in the order of the conversation."""
    if isinstance(request.input, str):
        return []
    return [
        _image_at(part, f"input[{i}].content[{j}]")
        for i, item in enumerate(request.input)
        if isinstance(item, ResponseMessage) and not isinstance(item.content, str)
        for j, part in enumerate(item.content)
        if isinstance(part, InputImage | InputFile)
    ]


def _message(item: ResponseMessage, place: str) -> ChatMessage:
    if isinstance(item.content, str):
        parts: list[TextContent | ImageContent | FileContent] = [TextContent(item.content)]
    else:
        parts = [_part(item, j, f"{place}.content[{j}]") for j in range(len(item.content))]
    if item.role == "user":
        return UserMessage(parts)
    texts = [part for part in parts if isinstance(part, TextContent)]
    return AssistantMessage(texts) if item.role == "assistant" else SystemMessage(texts)


def _part(item: ResponseMessage, index: int, place: str) -> TextContent | ImageContent:
    part = item.content[index]
    match part:
        case OutputText(text=text) if item.role == "assistant":
            return TextContent(text)
        case InputText(text=text) if item.role != "assistant":
            return TextContent(text)
        case InputImage() | InputFile() if item.role == "user":
            return ImageContent(_image_at(part, place)[0])
        case _:
            raise RequestError(
                ErrorCode.INVALID_VALUE,
                f"{place}: a part of this type does not belong into a message of {item.role!r}",
                param=f"{place}.type",
            )


def _image_at(part: InputImage | InputFile, place: str) -> tuple[ImageUrl, str]:
    """Return an image with the path of its URL."""
    if isinstance(part, InputFile):
        url, param = url_in(part, place)
        return ImageUrl(url), param
    if part.image_url is not None and part.file_id is not None:
        raise RequestError(
            ErrorCode.INVALID_VALUE,
            f"{place} has both image_url and file_id: send one",
            param=f"{place}.file_id",
        )
    if part.image_url is None and part.file_id is None:
        raise RequestError(
            ErrorCode.MISSING_PARAMETER,
            f"the required parameter '{place}.image_url' is missing",
            param=f"{place}.image_url",
        )
    field = "image_url" if part.file_id is None else "file_id"
    url = part.image_url or part.file_id or ""
    return ImageUrl(url, part.detail, part.preprocess), f"{place}.{field}"


def _format(text: TextOptions | None) -> TextFormat | JsonObjectFormat | JsonSchemaFormat | None:
    wanted = text.format if text is not None else None
    if isinstance(wanted, NamedSchemaFormat):
        named = JsonSchema(wanted.name, wanted.schema, wanted.strict, wanted.description)
        return JsonSchemaFormat(named)
    return wanted


def _with_types(value: object) -> object:
    """Return the body with the `type` that a message may leave out."""
    if not isinstance(value, dict):
        return value
    body = cast("dict[str, object]", value)
    items = body.get("input")
    if not isinstance(items, list):
        return body
    return {**body, "input": [_with_type(item) for item in cast("list[object]", items)]}


def _with_type(item: object) -> object:
    if not isinstance(item, dict) or "role" not in item:
        return cast("object", item)
    return {"type": "message", **cast("dict[str, object]", item)}


_REFUSED_VALUES = {
    "parallel_tool_calls": (True, "an answer has one call at most; send false"),
    "store": (True, "answers are not stored; send store: false"),
    "truncation": ("auto", "nothing is cut from a conversation; shorten it"),
}


def _refuse_with_reason(value: object) -> None:
    """Refuse what OpenAI does by default, or often, and we cannot."""
    body = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    for name, (refused, reason) in _REFUSED_VALUES.items():
        if body.get(name) == refused:
            raise RequestError(ErrorCode.UNSUPPORTED_PARAMETER, f"{name}: {reason}", param=name)
