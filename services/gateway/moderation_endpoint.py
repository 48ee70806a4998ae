"""Asks an endpoint of the shape of OpenAI's POST /v1/moderations whether texts may pass."""

from collections.abc import Sequence

import httpx
import msgspec

from services.gateway.moderation_rules import ModerationError
from services.gateway.settings import GatewaySettings

_MOST_ANSWER_BYTES = 1 << 20
_SHOWN = 40


class _Result(msgspec.Struct, frozen=True):
    flagged: bool
    categories: dict[str, bool] = {}


class _Answer(msgspec.Struct, frozen=True):
    results: list[_Result]


class ModerationEndpoint:
    """The endpoint that the settings name."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._url = str(settings.moderation_url)
        self._model = settings.moderation_model
        headers: dict[str, str] = {}
        if settings.moderation_key is not None:
            headers["authorization"] = f"Bearer {settings.moderation_key.get_secret_value()}"
        self._client = httpx.AsyncClient(
            headers=headers, timeout=settings.moderation_timeout_s, trust_env=False
        )

    async def refusal(self, texts: Sequence[str]) -> str | None:
        """See `moderation.Check`."""
        body: dict[str, object] = {"input": list(texts)}
        if self._model is not None:
            body["model"] = self._model
        try:
            response = await self._client.post(self._url, json=body)
        except httpx.HTTPError as error:
            raise ModerationError(type(error).__name__) from None
        if response.status_code != 200:
            raise ModerationError(f"status {response.status_code}")
        if len(response.content) > _MOST_ANSWER_BYTES:
            raise ModerationError("the answer is too long")
        try:
            answer = msgspec.json.decode(response.content, type=_Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise ModerationError("the answer is no moderation") from None
        if not answer.results:
            raise ModerationError("the answer has no results")
        for result in answer.results:
            if result.flagged:
                categories = (name[:_SHOWN] for name, is_so in result.categories.items() if is_so)
                return next(categories, "flagged")
        return None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
