"""How long an answer's `Retry-After` asks to wait."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def retry_after_s(header: str | None, most_s: float) -> float | None:
    """Return the seconds that a header asks for (RFC 9110, section 10.2.3), at most `most_s`.

    Args:
        header: seconds, or a date; as OpenAI's services, also seconds with a fraction.

    Returns:
        None where it says nothing that can be read.
    """
    text = (header or "").strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        seconds = float(text)
    else:
        try:
            at = parsedate_to_datetime(text)
        except ValueError:
            return None
        if at.tzinfo is None:  # "-0000": the time is UTC (RFC 9110, section 5.6.7)
            at = at.replace(tzinfo=UTC)
        seconds = (at - datetime.now(UTC)).total_seconds()
    return min(max(0.0, seconds), most_s)
