"""How requests end badly, in the same words on every engine that runs a model."""

from services.protocol.errors import ErrorCode, RequestError
from services.protocol.messages import Failed, GenerationRequest, SamplingParams


def failure_of(request: GenerationRequest, error: BaseException) -> Failed:
    """Return a request's end by `error`, which is told to the client if it is a RequestError."""
    if not isinstance(error, RequestError):
        return internal_failure(request)
    return Failed(request.request_id, request.attempt, error.code, error.message, error.param)


def internal_failure(request: GenerationRequest) -> Failed:
    """Return the end of a request that is not to blame."""
    return Failed(
        request.request_id,
        request.attempt,
        ErrorCode.INTERNAL_ERROR,
        "the model failed on this request; try again, and report it if it stays",
    )


def refuse_many_images(num_images: int, max_images: int, model_id: str) -> None:
    """Raise RequestError for more images than a request may have."""
    if num_images > max_images:
        raise RequestError(
            ErrorCode.TOO_MANY_IMAGES,
            f"{num_images} images; `{model_id}` takes {max_images} per request, send fewer",
            param="messages",
        )


def refuse_unknown_tokens(sampling: SamplingParams, vocab_size: int, model_id: str) -> None:
    """Raise RequestError for a bias on a token that the model does not have."""
    unknown = [token_id for token_id, _ in sampling.logit_bias if token_id >= vocab_size]
    if unknown:
        raise RequestError(
            ErrorCode.INVALID_VALUE,
            f"logit_bias names the token {unknown[0]}; `{model_id}` has 0 to {vocab_size - 1}",
            param="logit_bias",
        )


def template_refusal(model_id: str) -> RequestError:
    """Return the error for messages that a chat template or a processor does not take."""
    return RequestError(
        ErrorCode.INVALID_VALUE,
        f"the chat template of `{model_id}` does not take these messages; "
        "check their roles, their order and their images",
        param="messages",
    )
