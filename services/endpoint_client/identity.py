"""What decides the answers of a run, and in what two such differ.

What does *not* live here: what it consists of, and where it is kept.
"""

import json
from collections.abc import Mapping
from typing import Any


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what another call would change, a few words each."""
    return [
        f"{key} was {short(before.get(key))}, now {short(now.get(key))}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def short(value: object) -> str:
    """Return a value of an identity in a few words, for a message."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
