"""Every way in which a request can fail, as one tree.

GalenError                     code, message, param, retry_after_s
├── RequestError               the caller's fault: repeating it unchanged cannot help
│   ├── AccessError        no key, no valid one, or one that may not do this
│   ├── NotFoundError          a model, a route or an object that does not exist
│   └── TooLargeError          a body or a header beyond its limit
├── OverloadedError            nobody's fault: come back after `retry_after_s`
├── LimitError             a limit of the caller's own: come back after `retry_after_s`
├── UnavailableError           ours: Redis or every worker is away, or we are shutting down
├── DeadlineError              ours: the request ran out of its time
└── WorkerError                ours: the engine or its worker failed while it held the request

`ErrorCode` is the stable, public name of each cause. What does *not* live here: HTTP status codes
and OpenAI's error types (`services/gateway/error_handlers.py`).
"""

from enum import StrEnum


class ErrorCode(StrEnum):
    """Stable names that clients may compare with; never renamed once released."""

    # the JSON body
    INVALID_JSON = "invalid_json"
    DUPLICATE_KEY = "duplicate_key"
    TOO_DEEP = "too_deep"
    INVALID_UNICODE = "invalid_unicode"
    STRING_TOO_LONG = "string_too_long"
    # parameters
    MISSING_PARAMETER = "missing_required_parameter"
    INVALID_VALUE = "invalid_value"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    UNSUPPORTED_OPERATION = "unsupported_operation"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    # images
    INVALID_IMAGE = "invalid_image"
    UNSUPPORTED_IMAGE_TYPE = "unsupported_image_type"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_TOO_SMALL = "image_too_small"
    TOO_MANY_IMAGES = "too_many_images"
    INVALID_DICOM = "invalid_dicom"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    PHI_BURNED_IN = "phi_burned_in"
    URL_FETCH_DISABLED = "url_fetch_disabled"
    URL_NOT_ALLOWED = "url_not_allowed"
    IMAGE_FETCH_FAILED = "image_fetch_failed"
    # moderation
    CONTENT_REFUSED = "content_refused"
    MODERATION_UNAVAILABLE = "moderation_unavailable"
    # keys
    MISSING_API_KEY = "missing_api_key"
    INVALID_API_KEY = "invalid_api_key"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    KEY_NOT_FOUND = "key_not_found"
    # files, batches and evaluations
    LOCAL_ONLY = "local_only"
    FILE_NOT_FOUND = "file_not_found"
    FILE_IN_USE = "file_in_use"
    INVALID_FILE = "invalid_file"
    BATCH_NOT_FOUND = "batch_not_found"
    EVALUATION_NOT_FOUND = "evaluation_not_found"
    # votes and the audit
    REQUEST_NOT_FOUND = "request_not_found"
    VOTE_NOT_FOUND = "vote_not_found"
    AUDIT_UNAVAILABLE = "audit_unavailable"
    # administration
    ADMIN_FORBIDDEN = "admin_forbidden"
    WORKER_NOT_FOUND = "worker_not_found"
    HOST_NOT_FOUND = "host_not_found"
    MODEL_LOAD_REFUSED = "model_load_refused"
    # HTTP
    BAD_REQUEST = "bad_request"
    NOT_FOUND = "not_found"
    MODEL_NOT_FOUND = "model_not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    REQUEST_TOO_LARGE = "request_too_large"
    REQUEST_TIMEOUT = "request_timeout"
    URI_TOO_LONG = "uri_too_long"
    HEADERS_TOO_LARGE = "request_header_fields_too_large"
    # the server's side
    OVERLOADED = "overloaded"
    SHUTTING_DOWN = "shutting_down"
    BACKEND_UNAVAILABLE = "backend_unavailable"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    STORAGE_FULL = "storage_full"
    TIMEOUT = "timeout"
    WORKER_LOST = "worker_lost"
    MODEL_UNLOADED = "model_unloaded"
    REQUEST_POISONED = "request_poisoned"
    INPUT_EXPIRED = "input_expired"
    PROTOCOL_MISMATCH = "protocol_mismatch"
    INTERNAL_ERROR = "internal_error"


class GalenError(Exception):
    """Base of the tree.

    Args:
        code: the stable name of the cause.
        message: what was wrong, what is allowed, what to do; never text of a prompt or an answer.
        param: the request's parameter at fault, in OpenAI's spelling.
        retry_after_s: seconds after which the same request may succeed; None where it will not.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class RequestError(GalenError):
    """The request itself is at fault; not retryable."""


class AccessError(RequestError):
    """Who asks is not known, or may not do this; not retryable."""


class NotFoundError(RequestError):
    """What the request names does not exist; not retryable."""


class TooLargeError(RequestError):
    """A body or header exceeds its limit; not retryable."""


class OverloadedError(GalenError):
    """The queue has no room; retryable after `retry_after_s`."""


class LimitError(GalenError):
    """The caller has used what it may; retryable after `retry_after_s`."""


class UnavailableError(GalenError):
    """Redis, every worker of the model or this process is away; retryable after `retry_after_s`."""


class DeadlineError(GalenError):
    """The request's time ran out; retryable, though likely to end the same way."""


class WorkerError(GalenError):
    """The engine failed; retryable only where `code` is not REQUEST_POISONED."""


_CLASS_BY_CODE: dict[ErrorCode, type[GalenError]] = {
    ErrorCode.MISSING_API_KEY: AccessError,
    ErrorCode.INVALID_API_KEY: AccessError,
    ErrorCode.INSUFFICIENT_SCOPE: AccessError,
    ErrorCode.ADMIN_FORBIDDEN: AccessError,
    ErrorCode.RATE_LIMIT_EXCEEDED: LimitError,
    ErrorCode.KEY_NOT_FOUND: NotFoundError,
    ErrorCode.NOT_FOUND: NotFoundError,
    ErrorCode.MODEL_NOT_FOUND: NotFoundError,
    ErrorCode.WORKER_NOT_FOUND: NotFoundError,
    ErrorCode.HOST_NOT_FOUND: NotFoundError,
    ErrorCode.FILE_NOT_FOUND: NotFoundError,
    ErrorCode.BATCH_NOT_FOUND: NotFoundError,
    ErrorCode.EVALUATION_NOT_FOUND: NotFoundError,
    ErrorCode.REQUEST_NOT_FOUND: NotFoundError,
    ErrorCode.VOTE_NOT_FOUND: NotFoundError,
    ErrorCode.AUDIT_UNAVAILABLE: UnavailableError,
    ErrorCode.REQUEST_TOO_LARGE: TooLargeError,
    ErrorCode.URI_TOO_LONG: TooLargeError,
    ErrorCode.HEADERS_TOO_LARGE: TooLargeError,
    ErrorCode.OVERLOADED: OverloadedError,
    ErrorCode.SHUTTING_DOWN: UnavailableError,
    ErrorCode.BACKEND_UNAVAILABLE: UnavailableError,
    ErrorCode.STORAGE_UNAVAILABLE: UnavailableError,
    ErrorCode.STORAGE_FULL: UnavailableError,
    ErrorCode.MODERATION_UNAVAILABLE: UnavailableError,
    ErrorCode.TIMEOUT: DeadlineError,
    ErrorCode.WORKER_LOST: WorkerError,
    ErrorCode.MODEL_UNLOADED: UnavailableError,
    ErrorCode.REQUEST_POISONED: WorkerError,
    ErrorCode.INPUT_EXPIRED: WorkerError,
    ErrorCode.PROTOCOL_MISMATCH: WorkerError,
    ErrorCode.INTERNAL_ERROR: WorkerError,
}


def error_from_code(code: ErrorCode, message: str, param: str | None = None) -> GalenError:
    """Return the exception of the tree that belongs to `code` (a failure read off the wire)."""
    return _CLASS_BY_CODE.get(code, RequestError)(code, message, param=param)
