"""Images of a set's folder as data URLs; a name never leaves the folder, and nothing blocks.

What does *not* live here: what the endpoint makes of an image.
"""

import base64
import hashlib
import io
import stat
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from evaluation.errors import EvaluationError
from modeling.image_processing import normalise_to_rgb
from modeling.medical_images.choice import AS_IT_IS
from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.reading import is_medical, read_medical
from modeling.medical_images.recipes import fingerprint

_MOST_BYTES = 64 * 2**20
_SENT_AS_IT_IS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
_FORMATS = (*_SENT_AS_IT_IS, "BMP", "GIF", "TIFF")


@dataclass(frozen=True, slots=True)
class SentImage:
    """An image as it is sent.

    Args:
        sha256: of the file.
        converted_by: the fingerprint of what made the pixels of a DICOM or NIfTI file; empty: of
            another one.
    """

    url: str
    sha256: str
    converted_by: str = ""


def read_image(folder: Path, name: str) -> SentImage:
    """Return an image; formats that endpoints do not take are sent as PNG, DICOM among them.

    Raises:
        EvaluationError: no such file, not in the folder, no image, or too large.
    """
    content = read_file(folder, name)
    try:
        with _opened(content) as image:
            mime = _SENT_AS_IT_IS.get(image.format or "")
            if mime is None:
                png = io.BytesIO()
                normalise_to_rgb(image).save(png, "PNG")
                mime, sent = "image/png", png.getvalue()
            else:
                image.verify()
                sent = content
    except Exception as error:
        raise _unreadable(name, error) from error
    encoded = base64.b64encode(sent).decode("ascii")
    converted_by = fingerprint(AS_IT_IS, "sent as PNG") if is_medical(content) else ""
    url, sha256 = f"data:{mime};base64,{encoded}", hashlib.sha256(content).hexdigest()
    return SentImage(url, sha256, converted_by)


def open_image(folder: Path, name: str) -> Image.Image:
    """Return an image's RGB pixels; raises EvaluationError, as `read_image` does."""
    content = read_file(folder, name)
    try:
        with _opened(content) as image:
            return normalise_to_rgb(image)
    except Exception as error:
        raise _unreadable(name, error) from error


def check_image(name: str, content: bytes) -> None:
    """Raise EvaluationError unless bytes begin as an image whose header can be read."""
    try:
        with _opened(content) as image:
            image.verify()
    except Exception as error:
        raise _unreadable(name, error) from error


def _opened(content: bytes) -> Image.Image:
    """Return an image whose header was read; of a medical file its default frame, decoded."""
    if is_medical(content):
        return read_medical(content)[0]
    return Image.open(io.BytesIO(content), formats=_FORMATS)


def _unreadable(name: str, error: Exception) -> EvaluationError:
    if isinstance(error, MedicalImageError):
        return EvaluationError(f"image {name!r} cannot be read: {error.message}")
    return EvaluationError(
        f"image {name!r} cannot be read as one of {', '.join(_FORMATS)}, DICOM, NIfTI"
        f" ({type(error).__name__})"
    )


def read_file(folder: Path, name: str) -> bytes:
    """Return the bytes of a file below a folder; raises EvaluationError."""
    root = folder.resolve()
    try:
        path = (root / name).resolve(strict=True)
        if not path.is_relative_to(root):
            raise EvaluationError(f"image {name!r} lies outside {folder}")
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise EvaluationError(f"image {name!r} is no file")
        if not 0 < facts.st_size <= _MOST_BYTES:
            raise EvaluationError(
                f"image {name!r} has {facts.st_size} bytes; allowed are 1 to {_MOST_BYTES}"
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no file can have this name"
        raise EvaluationError(f"image {name!r} of {folder} cannot be read: {reason}") from error
