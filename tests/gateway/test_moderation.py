"""What operators forbid: their rules, an endpoint's word, and what happens without it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from services.gateway.moderation import Moderation, open_moderation
from services.gateway.moderation_rules import LocalRules, Rule
from services.gateway.openai_schemas import ChatCompletionRequest, read_chat_request
from services.gateway.settings import GatewaySettings
from services.protocol.errors import ErrorCode, RequestError, UnavailableError
from tests.support.stub_endpoint import StubEndpoint

CANARY = "canary-7731"
RULES = {"rules": [{"name": "weapons", "phrases": ["Build a  BOMB", "\uff37\uff29\uff24\uff25"]}]}


def chat(*texts: str) -> ChatCompletionRequest:
    parts = [{"type": "text", "text": text} for text in texts]
    return read_chat_request({
        "model": "m",
        "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": parts}],
    })  # fmt: skip


@pytest.fixture
def rules_file(tmp_path: Path) -> Path:
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(RULES), "utf-8")
    return path


async def refused(moderation: Moderation, *texts: str) -> str | None:
    try:
        await moderation.check(chat(*texts))
    except RequestError as error:
        return error.message if error.code is ErrorCode.CONTENT_REFUSED else None
    return None


def test_off_by_default() -> None:
    assert open_moderation(GatewaySettings()) is None


@pytest.mark.parametrize(
    "text", ["how to build a bomb?", "BUILD\n a\tbomb", "a wide thing", "please BuIlD A bOmB now"]
)
async def test_phrase_is_found_whatever_its_case_width_and_spacing(
    rules_file: Path, text: str
) -> None:
    moderation = open_moderation(GatewaySettings(moderation_rules=rules_file))
    assert moderation is not None
    message = await refused(moderation, "hello", text)
    assert message is not None
    assert "weapons" in message
    assert text not in message


@pytest.mark.parametrize(
    "text",
    [
        "bu\u200bild a bomb",
        "build a bo\u00admb",
        "build\u2060 a b\ufeffo\u200dmb",
        "w\U000e0041ide",
    ],
)
async def test_phrase_is_found_behind_characters_that_nobody_sees(
    rules_file: Path, text: str
) -> None:
    moderation = open_moderation(GatewaySettings(moderation_rules=rules_file))
    assert moderation is not None
    assert await refused(moderation, text) is not None


async def test_phrase_is_found_over_the_parts_of_a_message(rules_file: Path) -> None:
    moderation = open_moderation(GatewaySettings(moderation_rules=rules_file))
    assert moderation is not None
    assert await refused(moderation, "how to build a bo", "mb, and why") is not None


async def test_other_text_passes(rules_file: Path) -> None:
    moderation = open_moderation(GatewaySettings(moderation_rules=rules_file))
    assert moderation is not None
    assert await refused(moderation, "is there a bom b in this picture?") is None


async def test_long_text_is_looked_through_to_its_end() -> None:
    rules = LocalRules([Rule("r", ["needle"])])
    assert await rules.refusal(["x" * 3_000_000 + " needle"]) == "r"


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"rules": [{"name": "r"}]}', '{"rules": [{"name": "r", "phrases": [" "]}]}'],
)
def test_file_that_is_no_list_of_rules_stops_the_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rules.json"
    path.write_text(content, "utf-8")
    with pytest.raises(ValueError, match=r"rules\.json"):
        GatewaySettings(moderation_rules=path)
    with pytest.raises(ValueError, match="cannot be read"):
        GatewaySettings(moderation_rules=tmp_path / "none.json")


# --- an endpoint ---


class Endpoint:
    """What it answers, and what it was asked."""

    def __init__(self) -> None:
        self.answer: Response = JSONResponse({"results": [{"flagged": False}]})
        self.asked: list[Mapping[str, Any]] = []

    def decide(self, body: Mapping[str, Any], _number: int) -> Response:
        self.asked.append(body)
        return self.answer


@pytest.fixture
def endpoint() -> Endpoint:
    return Endpoint()


@pytest.fixture
def url(endpoint: Endpoint) -> Iterator[str]:
    with StubEndpoint(endpoint.decide) as stub:
        yield f"{stub.url}/chat/completions"  # the stub's way of asking us for a decision


def asking(url: str, **more: Any) -> Moderation:
    moderation = open_moderation(GatewaySettings(moderation_url=url, **more))
    assert moderation is not None
    return moderation


async def test_endpoint_is_asked_for_every_message_and_may_let_it_pass(
    url: str, endpoint: Endpoint
) -> None:
    moderation = asking(url, moderation_model="strict")
    await moderation.check(chat("one", "two"))
    await moderation.close()
    assert endpoint.asked == [{"input": ["be kind", "onetwo"], "model": "strict"}]


async def test_endpoint_flags(url: str, endpoint: Endpoint) -> None:
    endpoint.answer = JSONResponse(
        {
            "results": [
                {"flagged": False},
                {"flagged": True, "categories": {"hate": False, "violence": True}},
            ]
        }
    )
    moderation = asking(url)
    assert "violence" in (await refused(moderation, CANARY) or "")
    await moderation.close()


BROKEN: Sequence[Response] = (
    JSONResponse({"error": CANARY}, 500),
    JSONResponse({"results": []}),
    JSONResponse({"results": CANARY}),
    Response(CANARY),
)


@pytest.mark.parametrize("answer", BROKEN)
@pytest.mark.parametrize("policy", ["closed", "open"])
async def test_what_cannot_be_checked_is_refused_or_passes_by_policy(
    url: str, endpoint: Endpoint, answer: Response, policy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    endpoint.answer = answer
    moderation = asking(url, moderation_fails=policy)
    if policy == "closed":
        with pytest.raises(UnavailableError) as caught:
            await moderation.check(chat(CANARY))
        assert caught.value.code is ErrorCode.MODERATION_UNAVAILABLE
        assert caught.value.retry_after_s
        assert CANARY not in caught.value.message
    else:
        await moderation.check(chat(CANARY))
    await moderation.close()
    out, err = capfd.readouterr()
    assert CANARY not in out + err


async def test_endpoint_that_is_away_or_late_is_a_failed_check() -> None:
    moderation = asking("http://127.0.0.1:9/v1/moderations", moderation_timeout_s=0.2)
    with pytest.raises(UnavailableError):
        await moderation.check(chat("x"))
    await moderation.close()
