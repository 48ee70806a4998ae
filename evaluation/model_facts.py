"""What an endpoint tells of a model that decides its answers, and what two tellings differ in.

Galen's gateway tells it beside OpenAI's fields of `/v1/models/{id}`; others tell nothing, and then
nothing is claimed. What does *not* live here: asking for it (`services.endpoint_client`).
"""

from collections.abc import Mapping
from typing import Any, cast

_OF_PROVENANCE = ("checkpoint_fingerprint", "template_sha256", "dtype", "quantization")
_OF_MODEL = ("adapter_fingerprint", "image_recipe")
_NAMED_ONLY = ("engine", "context_length")


def deciding_facts(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes another model of one with the same name; what is not told is left out."""
    provenance = _provenance(told)
    found = {name: provenance.get(name) for name in _OF_PROVENANCE}
    found |= {name: told.get(name) for name in _OF_MODEL}
    return {name: value for name, value in found.items() if value}


def all_facts(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return these, and what may change digits of an answer: the engine and its libraries."""
    found = {name: told.get(name) for name in _NAMED_ONLY}
    found["versions"] = _provenance(told).get("versions")
    return deciding_facts(told) | {name: value for name, value in found.items() if value}


def changed(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what both facts say differently, or one of them says alone, by name."""
    return {
        name: (first.get(name), second.get(name))
        for name in dict.fromkeys((*first, *second))
        if first.get(name) != second.get(name)
    }


def _provenance(told: Mapping[str, Any]) -> Mapping[str, Any]:
    found = told.get("provenance")
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}
