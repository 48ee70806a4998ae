"""Opens tracing, or what stands for it: OpenTelemetry is imported only where it is wanted."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from services.tracing.spans import NoTracing, Tracing


def _nothing_is_off(url: object) -> object:
    """A variable that a compose file passes on may be there and empty."""
    return None if url == "" else url


TracesUrl = Annotated[
    Annotated[str, Field(pattern="^https?://[^/]")] | None, BeforeValidator(_nothing_is_off)
]
"""Of a setting: where spans are sent."""


class TracingMissingError(Exception):
    """Tracing is asked for, and what it needs is not installed."""


def open_tracing(url: str | None, service: str, share: float = 1.0) -> Tracing:
    """Return the tracing of a process.

    Args:
        url: where spans are sent; None: nowhere, tracing is off.
        share: of the traces that begin here, 0 to 1.

    Raises:
        TracingMissingError: see there.
    """
    if url is None:
        return NoTracing()
    try:
        from services.tracing.otel import OtelTracing  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise TracingMissingError(
            f"traces need {error.name}, which is not installed; run: pip install 'galen[tracing]', "
            f"or take GALEN_{service.upper()}_TRACES_URL away"
        ) from error
    return OtelTracing(url, f"galen-{service}", share)
