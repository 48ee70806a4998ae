"""The pixels of an image that was voted on, or why there are none.

What does *not* live here: where its bytes come from, and what is written (`feedback_export.py`).
"""

import io
import warnings
from typing import Any

import msgspec
from PIL import Image

from modeling.image_processing import normalise_to_rgb
from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.reading import Policy, is_medical, read_medical
from services.gateway.image_inputs import choice_of
from services.gateway.media.image_format import MAX_WEBP_PIXELS, sniff_format, webp_size
from services.gateway.openai_schemas import ImagePreprocess

_MOST_PIXELS = 64_000_000
_DAMAGED = "an image cannot be decoded"
_TOO_LARGE = "an image has too many pixels"
_NOT_SO = "an image has no such frame, slice, window or recipe"
_REFUSED = {
    "invalid_value": _NOT_SO,
    "image_too_large": _TOO_LARGE,
    "phi_burned_in": "an image has burnt-in text (phi_burned_in)",
    "unsupported_image_type": "an image is of a kind that is not read (unsupported_image_type)",
    "unsupported_transfer_syntax": (
        "an image is of a kind that is not read (unsupported_transfer_syntax)"
    ),
}


def clean_image(content: bytes, preprocess: dict[str, Any]) -> Image.Image | str:
    """Return an image upright, as RGB without metadata; else why it is not taken.

    Args:
        preprocess: what was shown of a DICOM or NIfTI file, in a request's words.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that are read all the same, or refused here
            return _decoded(content, msgspec.convert(preprocess, ImagePreprocess))
    except MedicalImageError as error:
        return _REFUSED.get(error.code, _DAMAGED)
    except Image.DecompressionBombError:
        return _TOO_LARGE
    except Exception:  # noqa: BLE001 - a decoder raises whatever it likes
        return _DAMAGED


def _decoded(content: bytes, asked: ImagePreprocess) -> Image.Image | str:
    if is_medical(content):
        choice = choice_of(asked, None, "preprocess")
        return normalise_to_rgb(read_medical(content, choice, Policy(_MOST_PIXELS))[0])
    if msgspec.structs.replace(asked, recipe=None) != ImagePreprocess():
        return _NOT_SO  # a recipe may be the operator's, who means DICOM and NIfTI
    found = sniff_format(content)
    if found == "WEBP":  # its decoder allocates the canvas when it is opened
        width, height = webp_size(content)
        if width * height > MAX_WEBP_PIXELS:
            return _TOO_LARGE
    with Image.open(io.BytesIO(content), formats=[found]) as opened:
        if opened.width * opened.height > _MOST_PIXELS:
            return _TOO_LARGE
        return normalise_to_rgb(opened)
