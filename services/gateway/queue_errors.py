"""What clients are told where the queue cannot take their request."""

from collections.abc import Generator
from contextlib import contextmanager

from services.protocol.connection import REDIS_AWAY
from services.protocol.errors import ErrorCode, UnavailableError
from services.protocol.request_queue import UnloadedError

UNLOADED = "the model was unloaded before the answer was complete"


@contextmanager
def told_to_clients() -> Generator[None]:
    """Raise UnavailableError for what the queue raises."""
    try:
        yield
    except REDIS_AWAY:
        raise redis_away() from None
    except UnloadedError:
        raise UnavailableError(ErrorCode.MODEL_UNLOADED, UNLOADED) from None


def redis_away() -> UnavailableError:
    """Return the error of a request while Redis is away."""
    return UnavailableError(
        ErrorCode.BACKEND_UNAVAILABLE,
        "the request queue is not reachable at the moment; try again later",
        retry_after_s=2.0,
    )
