"""Structured logs: one line per event, JSON for machines or coloured text for a terminal.

Keys, and what stands behind `Bearer`, are cut out of every line, wherever they come from.
Event names are dotted nouns and verbs (`request.finished`), values are fields. No prompt, image or
answer text is ever a field: lengths, hashes and ids only.
"""

import logging
import re
import sys
from typing import Any, Literal

import structlog

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

_LEVELS: dict[LogLevel, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


_SECRETS = (
    ("galen_", re.compile(r"(galen_[0-9a-f]{16}_)[0-9a-f]{8,}")),
    ("galenjob_", re.compile(r"(galenjob_)[A-Za-z0-9._=-]+")),
    ("earer", re.compile(r"(earer(?: |\+|%20)+)[A-Za-z0-9._~+/=-]{8,}")),
    ("uthorization", re.compile(r"(uthorization\W{1,6})(?!(?:B|b)earer\b)[A-Za-z0-9._~+/=-]{8,}")),
)
"""By a word that is in the line, which costs less to look for: the secret parts of keys, the tokens
of job workers, and whatever is sent as one."""


def redacted(text: str) -> str:
    """Return a line without secrets; the ids of keys stay."""
    for word, secret in _SECRETS:
        if word in text:
            text = secret.sub(r"\1[secret]", text)
    return text


class _RedactingFormatter(logging.Formatter):
    """Of what libraries log."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        return redacted(super().format(record))


def _redact(_logger: object, _method: str, line: Any) -> Any:  # noqa: ANN401 - structlog's types
    """Last of the processors: the line is text by now."""
    return redacted(line)


def configure_logging(service: str, log_format: LogFormat, level: LogLevel) -> None:
    """Set structlog up for this process; called once, by its entry point."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty(), pad_event_to=28)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso" if log_format == "json" else "%H:%M:%S"),
            structlog.processors.format_exc_info,
            renderer,
            _redact,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_RedactingFormatter("%(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
