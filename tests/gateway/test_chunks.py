import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Model as OpenAIModel
from openai.types.chat import ChatCompletion as OpenAIChatCompletion

from services.gateway.chunks import (
    AnswerMessage,
    Capabilities,
    ChatCompletion,
    Choice,
    ChoiceLogprobs,
    ErrorAnswer,
    ErrorBody,
    ImageCapabilities,
    Model,
    ModelList,
    Usage,
    logprobs_content,
)
from services.protocol.messages import Provenance, TokenLogprob

ENTRY = TokenLogprob(7, "é", -0.5, ((7, "é", -0.5), (8, "\N{REPLACEMENT CHARACTER}", -1.5)))


def as_json(value: object):
    return msgspec.json.decode(msgspec.json.encode(value))


def test_logprobs_have_openai_s_form_with_utf_8_bytes() -> None:
    (content,) = logprobs_content([ENTRY])

    assert as_json(content) == {
        "token": "é",
        "logprob": -0.5,
        "bytes": [0xC3, 0xA9],
        "top_logprobs": [
            {"token": "é", "logprob": -0.5, "bytes": [0xC3, 0xA9]},
            {"token": "�", "logprob": -1.5, "bytes": [0xEF, 0xBF, 0xBD]},
        ],
    }


@given(
    token=st.text(st.characters(exclude_categories=["Cs"])),
    logprob=st.floats(max_value=0, allow_nan=False, allow_infinity=False),
)
def test_bytes_of_a_token_are_its_text(token: str, logprob: float) -> None:
    (content,) = logprobs_content([TokenLogprob(1, token, logprob)])

    assert bytes(content.bytes).decode() == content.token == token
    assert math.exp(content.logprob) <= 1


def test_answer_is_read_by_openai_s_own_types_without_a_difference() -> None:
    logprobs = ChoiceLogprobs(logprobs_content([ENTRY]))
    choices = [
        Choice(0, AnswerMessage("text"), "stop", logprobs),
        Choice(1, AnswerMessage(""), "length"),
    ]
    body = as_json(ChatCompletion("chatcmpl-1", 123, "m", choices, Usage(1, 2, 3)))

    read = OpenAIChatCompletion.model_validate(body, strict=True)

    assert read.to_dict(exclude_unset=True) == body
    assert read.choices[0].logprobs is not None


def test_models_are_read_by_openai_s_own_type() -> None:
    told = Provenance(checkpoint_fingerprint="ab")
    able = Capabilities("fake", 2048, ImageCapabilities(16), ["seed"], ["/v1/completions"], [])
    model = Model("m", 123, "fake", 2048, 16, "ready", able, provenance=told)
    body = as_json(ModelList([model]))

    assert body["object"] == "list"
    read = OpenAIModel.model_validate(body["data"][0], strict=True)
    assert (read.id, read.object, read.owned_by) == ("m", "model", "galen")
    assert body["data"][0]["provenance"] == {"checkpoint_fingerprint": "ab"}


def test_error_has_its_four_fields_always() -> None:
    body = as_json(ErrorAnswer(ErrorBody("wrong", "invalid_request_error", None, "invalid_value")))

    assert body == {
        "error": {
            "message": "wrong",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_value",
        }
    }
