"""Fields of a request that not every model takes, and what is asked instead.

Newer models of OpenAI's refuse `max_tokens` and want `max_completion_tokens`; other endpoints know
the old name alone. What does *not* live here: asking (`client.py`).
"""

from collections.abc import Mapping
from typing import Any

import openai

_OLD, _NEW = "max_tokens", "max_completion_tokens"
_UNSUPPORTED = frozenset({"unsupported_parameter", "unsupported_value"})
_OF_ALL = frozenset({"temperature", "top_p", "seed", _OLD, _NEW})
"""Sent alike with every request, so that no other one fares better."""


def renamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with the new name for the longest answer."""
    return {_NEW if key == _OLD else key: value for key, value in settings.items()}


def wants_new_name(error: Exception, settings: Mapping[str, Any]) -> bool:
    """Whether an endpoint refused the old name of what was sent."""
    if not isinstance(error, openai.BadRequestError) or _OLD not in settings:
        return False
    return (error.code in _UNSUPPORTED and error.param == _OLD) or _NEW in error.message


def refused_field(error: Exception) -> str:
    """Return the field that a model never takes as it was sent; empty: that is not the matter."""
    if not isinstance(error, openai.BadRequestError) or error.code not in _UNSUPPORTED:
        return ""
    return error.param if error.param in _OF_ALL else ""
