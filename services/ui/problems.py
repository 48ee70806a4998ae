"""What went wrong, in words for the person before the page: the cause, and what to do. Pure."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import httpx2
import openai

_WHAT_TO_DO = {
    "invalid_api_key": "Log out and log in with a valid key.",
    "missing_api_key": "Log in with an API key.",
    "insufficient_scope": "This key may not do that; ask the operator for one that may.",
    "admin_forbidden": "Only a key with the scope `admin` may see this.",
    "local_only": "The gateway serves its own machine only; the operator has to make a key.",
    "model_not_found": "Choose another model; the list shows what is served now.",
    "model_unloaded": "The model was taken away; choose another one.",
    "worker_lost": "The model's workers are gone; try again when its state is `ready`.",
    "image_too_large": "Send a smaller picture.",
    "image_too_small": "Send a larger picture.",
    "unsupported_image_type": "JPEG, PNG, WebP, TIFF, BMP, GIF, DICOM and NIfTI can be shown.",
    "too_many_images": "Remove some of the images, or begin a new conversation.",
    "context_length_exceeded": "Begin a new conversation, or ask for a shorter answer.",
    "audit_unavailable": "Tell the operator: requests cannot be recorded at the moment.",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why something failed.

    Args:
        cause: one sentence.
        advice: what to do about it; "": the cause says it.
        code: stable, of the gateway's table of errors; "": it did not answer.
        retry_after_s: when it may work; None: not known.
        is_away: the gateway cannot be reached.
    """

    cause: str
    advice: str = ""
    code: str = ""
    retry_after_s: float | None = None
    is_away: bool = False

    def text(self) -> str:
        """Return it as one paragraph."""
        wait = ""
        if self.retry_after_s is not None:
            wait = f"Try again in {max(1, round(self.retry_after_s))} s."
        return " ".join(part for part in (self.cause, wait, self.advice) if part)


AWAY = Problem(
    "The gateway cannot be reached.",
    "This page tries again by itself; if it lasts, the operator has to start the gateway.",
    is_away=True,
)
CUT_OFF = Problem(
    "The connection to the gateway broke before the answer was complete.",
    "Press retry.",
    is_away=True,
)


class GatewayError(Exception):
    """The gateway refused, failed or was away; `problem` says it in words."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code or problem.cause)
        self.problem = problem


@contextmanager
def problems_told() -> Generator[None]:
    """Turn what the client raises into a `GatewayError`.

    Some of its errors come from the connection below it, in the middle of a stream.
    """
    try:
        yield
    except (openai.APIError, httpx2.TransportError) as error:
        raise GatewayError(problem_of(error)) from error


def problem_of(error: Exception) -> Problem:
    """Return what an error of the OpenAI client, or of its connection, means."""
    match error:
        case openai.APITimeoutError():
            return Problem("The gateway was silent for too long.", "Press retry.", is_away=True)
        case openai.APIConnectionError():
            return AWAY
        case openai.APIStatusError():
            return _of_status(error)
        case openai.APIError():  # an error event within a stream
            return _known(error.code or "", error.message, None)
        case httpx2.TransportError():
            return CUT_OFF
        case _:
            raise error


def _of_status(error: openai.APIStatusError) -> Problem:
    told = cast("object", error.body)
    if not isinstance(told, dict):
        return Problem(
            f"The gateway's address answered with status {error.status_code}, and not as a gateway "
            "does.",
            "The operator has to check GALEN_UI_GATEWAY_URL.",
        )
    message = str(cast("dict[str, object]", told).get("message") or f"status {error.status_code}")
    return _known(str(error.code or ""), message, _seconds(error.response.headers))


def _known(code: str, message: str, retry_after_s: float | None) -> Problem:
    sentence = message[:1].upper() + message[1:]
    if sentence and sentence[-1] not in ".!?":
        sentence += "."
    return Problem(sentence, _WHAT_TO_DO.get(code, ""), code, retry_after_s)


def _seconds(headers: httpx2.Headers) -> float | None:
    try:
        return float(headers.get("retry-after", ""))
    except ValueError:
        return None
