"""Images of a question: read, shown to the gateway, and what it says the model sees of them.

The bytes of an upload are never decoded here; the gateway does that, in a process of its own.
"""

import base64
import binascii
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modeling.medical_images.signatures import is_dicom, is_gzip, is_nifti
from services.ui.conversation import Attachment
from services.ui.gateway_client import Gateway
from services.ui.problems import GatewayError, Problem

FILE_TYPES = (
    ".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".dcm", ".dicom", ".ima",
    ".nii", ".gz",
)  # fmt: skip
"""What may be added to a question."""
MEDICAL = frozenset({"DICOM", "NIFTI"})
_BROWSERS_SHOW = frozenset({"image/jpeg", "image/png", "image/webp", "image/gif"})
_DECLARED = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
}
_MADE_FOLDER = "previews"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a model sees of an image.

    Args:
        picture: PNG; None: there is none, and `problem` says why.
        facts: of the file, as the preview's route has them.
        fingerprint: of the way from the file to the pixels.
    """

    picture: Path | None = None
    facts: Mapping[str, Any] | None = None
    fingerprint: str = ""
    problem: Problem | None = None


def media_type(start: bytes) -> str:
    """Return what a file says of itself in its first bytes; the gateway checks it.

    What is none of these is declared as PNG, and the gateway says what is wrong with it.
    """
    if is_dicom(start):
        return "application/dicom"
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "image/webp"
    for magic, name in _DECLARED.items():
        if start.startswith(magic):
            return name
    if is_gzip(start) or is_nifti(start):
        return "application/x-nifti"
    return "image/png"


def data_url(file: Path) -> str:
    """Return a file as a `data:` URL; raises OSError where it is gone."""
    content = file.read_bytes()
    kind = media_type(content[:4096])
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def is_shown_by_browsers(file: Path) -> bool:
    """Whether a browser can show a file as it is."""
    with file.open("rb") as opened:
        return media_type(opened.read(4096)) in _BROWSERS_SHOW


async def look(gateway: Gateway, model: str, attachment: Attachment, folder: Path) -> Seen:
    """Ask the gateway what a model sees of an image.

    Args:
        folder: where the picture is kept.
    """
    try:
        url = data_url(attachment.file)
    except OSError:
        return Seen(problem=Problem("The upload is gone.", "Add the image once more."))
    image: dict[str, Any] = {"url": url}
    if attachment.preprocess:
        image["preprocess"] = dict(attachment.preprocess)
    try:
        told = await gateway.preview(model, image)
        picture = _keep(told["image"], folder)
    except GatewayError as error:
        return Seen(problem=error.problem)
    except (KeyError, TypeError, ValueError, binascii.Error):
        return Seen(problem=Problem("The gateway's preview could not be read."))
    return Seen(picture, told.get("facts") or {}, str(told.get("fingerprint", "")))


def with_picture(attachment: Attachment, seen: Seen) -> Attachment:
    """Return an attachment with what is shown of it in the conversation."""
    if seen.picture is None or is_shown_by_browsers(attachment.file):
        return attachment
    return replace(attachment, shown=seen.picture)


def _keep(url: str, folder: Path) -> Path:
    _, _, encoded = url.partition("base64,")
    content = base64.b64decode(encoded, validate=True)
    place = folder / _MADE_FOLDER / secrets.token_hex(16)
    place.mkdir(parents=True, mode=0o700)
    file = place / "seen.png"
    file.write_bytes(content)
    return file
