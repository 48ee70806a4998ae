"""What the preview route reads and answers. Pure.

What does *not* live here: making the picture (`media/`).
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from modeling.medical_images.choice import Facts
from services.gateway.openai_schemas import MAX_NAME_LENGTH, ImageUrl


class PreviewRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /v1/galen/preview."""

    model: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_LENGTH)]
    image_url: ImageUrl


class PreviewFacts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is told of a file beside its pixels; what it does not state is left out."""

    format: str
    width: int
    height: int
    modality: str = ""
    frame: int = 0
    frames: int = 0
    slice: int = 0
    slices: int = 0
    bits: int = 0
    photometric: str = ""
    transfer_syntax: str = ""
    window: str = ""
    center: float | None = None
    window_width: float | None = None
    burned_in: str = ""
    masked: bool = False


class Preview(msgspec.Struct, frozen=True):
    """The answer.

    Args:
        image: PNG as a data URL.
        fingerprint: as the header `x-galen-preprocess` of a chat.
    """

    image: str
    width: int
    height: int
    fingerprint: str
    facts: PreviewFacts


def facts_of(facts: Facts) -> PreviewFacts:
    """Return the facts as they are written."""
    return msgspec.convert(facts, PreviewFacts, from_attributes=True)
