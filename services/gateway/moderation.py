"""An optional look at what is asked, before anything is done for it: own rules, or an endpoint.

Off unless it is configured, and then without any cost. What is looked at goes to the endpoint that
the operator names, and nowhere else: not into logs, errors or metrics. Only text is looked at.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec
import structlog

from services.gateway.moderation_rules import ModerationError, read_rules
from services.gateway.openai_schemas import AssistantMessage, ChatCompletionRequest, texts_in
from services.gateway.settings import GatewaySettings
from services.protocol.errors import ErrorCode, RequestError, UnavailableError

_log = structlog.get_logger()

_RETRY_AFTER_S = 5.0


class Check(Protocol):
    """One way of looking at texts."""

    async def refusal(self, texts: Sequence[str]) -> str | None:
        """Return the name of the rule that forbids them; None: they may pass."""
        ...

    async def close(self) -> None: ...


class Moderation:
    """The configured checks, and what is done where one cannot be made.

    Args:
        fails_open: let a request pass where a check fails; else it gets 503.
    """

    def __init__(self, checks: Sequence[Check], *, timeout_s: float, fails_open: bool) -> None:
        self._checks = checks
        self._timeout_s = timeout_s
        self._fails_open = fails_open

    async def check(self, chat: ChatCompletionRequest) -> None:
        """Look at a conversation.

        Raises:
            RequestError: a rule forbids it.
            UnavailableError: a check could not be made, and the policy is to refuse then.
        """
        texts = texts_of(chat)
        for each in self._checks:
            try:
                async with asyncio.timeout(self._timeout_s):
                    rule = await each.refusal(texts)
            except (TimeoutError, ModerationError) as error:
                cause = "timeout" if isinstance(error, TimeoutError) else str(error)
                _log.error("moderation.failed", cause=cause, passed=self._fails_open)
                if not self._fails_open:
                    raise _unavailable() from None
                continue
            if rule is not None:
                raise RequestError(
                    ErrorCode.CONTENT_REFUSED,
                    f"the rules of this server forbid what is asked ({rule})",
                    param="messages",
                )

    async def close(self) -> None:
        """Close what the checks have open."""
        for each in self._checks:
            await each.close()


def open_moderation(settings: GatewaySettings) -> Moderation | None:
    """Return what the settings ask for; None: nothing.

    Raises:
        ValueError, OSError: the file of rules cannot be read, or is none.
    """
    checks: list[Check] = []
    if settings.moderation_rules is not None:
        checks.append(read_rules(settings.moderation_rules))
    if settings.moderation_url is not None:
        # its HTTP client costs megabytes, which a gateway without it need not have
        from services.gateway.moderation_endpoint import ModerationEndpoint  # noqa: PLC0415

        checks.append(ModerationEndpoint(settings))
    if not checks:
        return None
    return Moderation(
        checks,
        timeout_s=settings.moderation_timeout_s,
        fails_open=settings.moderation_fails == "open",
    )


def texts_of(chat: ChatCompletionRequest) -> list[str]:
    """Return every text of a conversation."""
    texts = list(texts_in(chat.messages))
    for message in chat.messages:
        if isinstance(message, AssistantMessage) and message.tool_calls:
            texts += [call.function.arguments for call in message.tool_calls]
    if chat.tools:  # the model reads their descriptions, too
        texts.append(msgspec.json.encode(chat.tools).decode())
    return texts


def _unavailable() -> UnavailableError:
    return UnavailableError(
        ErrorCode.MODERATION_UNAVAILABLE,
        "the request could not be checked against the rules of this server; try again later",
        retry_after_s=_RETRY_AFTER_S,
    )
