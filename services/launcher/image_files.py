"""What an image file of the user's is, by its first bytes, as the gateway will see it."""

import base64
from pathlib import Path

from services.gateway.media.data_url import MIME_BY_FORMAT
from services.gateway.media.image_format import sniff_format
from services.launcher.terminal import CommandError
from services.protocol.errors import RequestError

_HEAD_BYTES = 4096


def image_mime(path: Path) -> str:
    """Return an image's media type by its first bytes; raises CommandError for other files."""
    try:
        with path.open("rb") as file:
            start = file.read(_HEAD_BYTES)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return MIME_BY_FORMAT[sniff_format(start)]
    except RequestError:
        raise CommandError(
            f"{path} is not a JPEG, PNG, WebP, TIFF, BMP, GIF, DICOM or NIfTI file; "
            "convert it to one of these"
        ) from None


def data_url(path: Path) -> str:
    """Return an image as a data: URL; raises CommandError for what cannot be used."""
    mime = image_mime(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from error
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
