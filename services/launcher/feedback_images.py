"""The pixels of an image that was voted on, or why there are none.

What does *not* live here: where its bytes come from, and what is written (`feedback_export.py`).
"""

import io
import warnings

from PIL import Image

from modeling.image_processing import normalise_to_rgb
from modeling.medical_images.choice import AS_IT_IS
from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.reading import Policy, is_medical, read_medical

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
_MOST_PIXELS = 64_000_000
_DAMAGED = "an image cannot be decoded"
_TOO_LARGE = "an image has too many pixels"
_REFUSED = {
    "image_too_large": _TOO_LARGE,
    "phi_burned_in": "an image has burnt-in text (phi_burned_in)",
    "unsupported_image_type": "an image is of a kind that is not read (unsupported_image_type)",
    "unsupported_transfer_syntax": (
        "an image is of a kind that is not read (unsupported_transfer_syntax)"
    ),
}


def clean_image(content: bytes) -> Image.Image | str:
    """Return an image upright, as RGB without metadata; else why it is not taken.

    Of a DICOM or NIfTI file it is the frame or slice that is shown where nobody chose one.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of files that are read all the same, or refused here
            return _decoded(content)
    except MedicalImageError as error:
        return _REFUSED.get(error.code, _DAMAGED)
    except Image.DecompressionBombError:
        return _TOO_LARGE
    except Exception:  # noqa: BLE001 - a decoder raises whatever it likes
        return _DAMAGED


def _decoded(content: bytes) -> Image.Image | str:
    if is_medical(content):
        return normalise_to_rgb(read_medical(content, AS_IT_IS, Policy(_MOST_PIXELS))[0])
    with Image.open(io.BytesIO(content), formats=_FORMATS) as opened:
        if opened.width * opened.height > _MOST_PIXELS:
            return _TOO_LARGE
        return normalise_to_rgb(opened)
