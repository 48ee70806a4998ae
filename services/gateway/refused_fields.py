"""Which fields of OpenAI's requests are refused, and why: told to the caller, and in docs/api.md.

What is neither here nor in a struct of ours is refused as well, without a reason. Pure.
"""

from collections.abc import Mapping

_ONE_PLACE = "answers are not stored; nothing can refer to an earlier one"
_NO_TIERS = "there is one tier of service"
_NO_CACHE_OPTIONS = "the prefix cache is the engine's own business"
_NO_MODERATION = "moderation is the operator's, not the request's"
_NO_REASONING = "no model here reasons apart from its answer"
_NO_FUNCTIONS = "the old name of `tools`"
_USER = "`user` carries an identifier"

CHAT: Mapping[str, str] = {
    "audio": "answers are text",
    "function_call": _NO_FUNCTIONS,
    "functions": _NO_FUNCTIONS,
    "metadata": _ONE_PLACE,
    "modalities": "answers are text",
    "moderation": _NO_MODERATION,
    "prediction": "no engine here takes a predicted answer",
    "prompt_cache_key": _NO_CACHE_OPTIONS,
    "prompt_cache_options": _NO_CACHE_OPTIONS,
    "prompt_cache_retention": _NO_CACHE_OPTIONS,
    "reasoning_effort": _NO_REASONING,
    "safety_identifier": _USER,
    "service_tier": _NO_TIERS,
    "store": _ONE_PLACE,
    "verbosity": "say it in the prompt",
    "web_search_options": "nothing here looks into the web",
}

COMPLETIONS: Mapping[str, str] = {
    "best_of": "send `n`, and choose by `logprobs`",
    "echo": "the prompt is not repeated, and has no log-probabilities",
    "suffix": "no model here fills a gap",
}

RESPONSES: Mapping[str, str] = {
    "access_programs": "there are none",
    "background": _ONE_PLACE,
    "background_options": _ONE_PLACE,
    "context_management": "nothing is cut from a conversation",
    "conversation": _ONE_PLACE,
    "image": "answers are text",
    "max_tool_calls": "no tool runs here",
    "moderation": _NO_MODERATION,
    "previous_response_id": _ONE_PLACE,
    "prompt": "there are no stored prompts",
    "prompt_cache_key": _NO_CACHE_OPTIONS,
    "prompt_cache_options": _NO_CACHE_OPTIONS,
    "prompt_cache_retention": _NO_CACHE_OPTIONS,
    "reasoning": _NO_REASONING,
    "safety_identifier": _USER,
    "service_tier": _NO_TIERS,
    "stream_options": "the last event has the usage, and no event is padded",
}


def why_refused(name: str, reasons: Mapping[str, str]) -> str:
    """Return the reason in brackets, for the middle of a sentence; "" where there is none."""
    return f" ({reasons[name]})" if name in reasons else ""
