"""From our errors to HTTP: the one place that knows status codes and OpenAI's error types."""

import math
from http import HTTPStatus

import msgspec
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from services.gateway.chunks import ErrorAnswer, ErrorBody
from services.protocol.errors import ErrorCode, GalenError

_log = structlog.get_logger()

_INVALID = "invalid_request_error"
_SERVER = "server_error"
_AUTHENTICATION = "authentication_error"
_PERMISSION = "permission_error"
_RATE_LIMIT = "rate_limit_error"

STATUS_BY_CODE: dict[ErrorCode, tuple[int, str]] = {
    ErrorCode.NOT_FOUND: (404, _INVALID),
    ErrorCode.MODEL_NOT_FOUND: (404, _INVALID),
    ErrorCode.WORKER_NOT_FOUND: (404, _INVALID),
    ErrorCode.HOST_NOT_FOUND: (404, _INVALID),
    ErrorCode.FILE_NOT_FOUND: (404, _INVALID),
    ErrorCode.BATCH_NOT_FOUND: (404, _INVALID),
    ErrorCode.EVALUATION_NOT_FOUND: (404, _INVALID),
    ErrorCode.REQUEST_NOT_FOUND: (404, _INVALID),
    ErrorCode.VOTE_NOT_FOUND: (404, _INVALID),
    ErrorCode.AUDIT_UNAVAILABLE: (503, _SERVER),
    ErrorCode.FILE_IN_USE: (409, _INVALID),
    ErrorCode.LOCAL_ONLY: (403, _PERMISSION),
    ErrorCode.MISSING_API_KEY: (401, _AUTHENTICATION),
    ErrorCode.INVALID_API_KEY: (401, _AUTHENTICATION),
    ErrorCode.INSUFFICIENT_SCOPE: (403, _PERMISSION),
    ErrorCode.ADMIN_FORBIDDEN: (403, _PERMISSION),
    ErrorCode.RATE_LIMIT_EXCEEDED: (429, _RATE_LIMIT),
    ErrorCode.KEY_NOT_FOUND: (404, _INVALID),
    ErrorCode.MODEL_LOAD_REFUSED: (409, _INVALID),
    ErrorCode.METHOD_NOT_ALLOWED: (405, _INVALID),
    ErrorCode.REQUEST_TIMEOUT: (408, _INVALID),
    ErrorCode.REQUEST_TOO_LARGE: (413, _INVALID),
    ErrorCode.URI_TOO_LONG: (414, _INVALID),
    ErrorCode.HEADERS_TOO_LARGE: (431, _INVALID),
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: (415, _INVALID),
    ErrorCode.OVERLOADED: (503, _SERVER),
    ErrorCode.SHUTTING_DOWN: (503, _SERVER),
    ErrorCode.BACKEND_UNAVAILABLE: (503, _SERVER),
    ErrorCode.STORAGE_UNAVAILABLE: (503, _SERVER),
    ErrorCode.STORAGE_FULL: (503, _SERVER),
    ErrorCode.MODERATION_UNAVAILABLE: (503, _SERVER),
    ErrorCode.WORKER_LOST: (503, _SERVER),
    ErrorCode.MODEL_UNLOADED: (503, _SERVER),
    ErrorCode.TIMEOUT: (504, _SERVER),
    ErrorCode.REQUEST_POISONED: (500, _SERVER),
    ErrorCode.INPUT_EXPIRED: (500, _SERVER),
    ErrorCode.PROTOCOL_MISMATCH: (500, _SERVER),
    ErrorCode.INTERNAL_ERROR: (500, _SERVER),
}
"""Every other code is the request's fault: 400, invalid_request_error."""

_NOT_AGAIN = frozenset({
    ErrorCode.REQUEST_POISONED, ErrorCode.WORKER_LOST, ErrorCode.TIMEOUT,
    ErrorCode.PROTOCOL_MISMATCH, ErrorCode.MODEL_UNLOADED,
})  # fmt: skip
"""A client that repeats these by itself would do harm (OpenAI's client obeys the header)."""

_BODY_UNREAD = frozenset({ErrorCode.REQUEST_TOO_LARGE, ErrorCode.REQUEST_TIMEOUT})
"""The rest of the body is not waited for, so the connection cannot be used again."""

_CODE_BY_STATUS = {
    404: ErrorCode.NOT_FOUND,
    405: ErrorCode.METHOD_NOT_ALLOWED,
    413: ErrorCode.REQUEST_TOO_LARGE,
    415: ErrorCode.UNSUPPORTED_MEDIA_TYPE,
}
_MESSAGE_BY_STATUS = {
    404: "there is no such route; see /openapi.json for those that exist",
    405: "this route does not take this method; see /openapi.json",
}


def status_and_type(code: ErrorCode) -> tuple[int, str]:
    """Return the HTTP status and OpenAI's type of a code."""
    return STATUS_BY_CODE.get(code, (400, _INVALID))


def error_answer(error: GalenError) -> ErrorAnswer:
    """Return the body for an error."""
    _, kind = status_and_type(error.code)
    return ErrorAnswer(ErrorBody(error.message, kind, error.param, error.code.value))


def error_response(error: GalenError) -> Response:
    """Return the whole response for an error."""
    status, _ = status_and_type(error.code)
    headers: dict[str, str] = {}
    retry_after_s = error.retry_after_s
    if retry_after_s is None and status == HTTPStatus.SERVICE_UNAVAILABLE:
        retry_after_s = 1.0  # a failure off the wire does not say
    if retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(retry_after_s)))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"  # which a 401 must have (RFC 9110, 15.5.2)
    if error.code in _NOT_AGAIN:
        headers["x-should-retry"] = "false"
    if error.code in _BODY_UNREAD:
        headers["connection"] = "close"
    body = msgspec.json.encode(error_answer(error))
    return Response(body, status, headers, media_type="application/json")


def install_error_handlers(app: FastAPI) -> None:
    """Make every error of the application leave in OpenAI's shape."""
    for kind in (GalenError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _on_error)
    # A path with a slash too many is unknown (404), not a redirect to where the Host header says.
    app.router.redirect_slashes = False


async def _on_error(request: Request, error: Exception) -> Response:
    return respond_to_error(request, error)


def respond_to_error(request: Request, error: Exception) -> Response:
    """Return the response for anything that a handler raised."""
    known = known_error(error)
    request.scope["galen.code"] = known.code.value
    response = error_response(known)
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)  # Allow, which a 405 must have (RFC 9110, 15.5.6)
    return response


def known_error(error: Exception) -> GalenError:
    """Return the error of our tree for anything that was raised; a bug of ours is logged."""
    if isinstance(error, GalenError):
        return error
    if isinstance(error, HTTPException):
        code = _CODE_BY_STATUS.get(error.status_code, ErrorCode.BAD_REQUEST)
        message = _MESSAGE_BY_STATUS.get(
            error.status_code, "the request is not valid HTTP for this server"
        )
        return GalenError(code, message)
    if isinstance(error, RequestValidationError):
        return GalenError(ErrorCode.INVALID_VALUE, "a parameter of the request is not valid")
    if isinstance(error, ClientDisconnect):
        return GalenError(ErrorCode.BAD_REQUEST, "the client left before its body was complete")
    _log_bug(error)
    message = "an internal error occurred; the operator finds it in the log by the request id"
    return GalenError(ErrorCode.INTERNAL_ERROR, message)


def _log_bug(error: Exception) -> None:
    """Log a bug of ours by its type and place; its text may hold what a user sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace else ""
    _log.error("request.broken", error=type(error).__name__, place=place)
