"""What an image file of the user's is, by its first bytes."""

import base64
from pathlib import Path

from services.launcher.terminal import CommandError

_MIME_BY_MAGIC = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG\r\n\x1a\n", "image/png"))


def image_mime(path: Path) -> str:
    """Return an image's media type by its first bytes; raises CommandError for other files."""
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from error
    for magic, mime in _MIME_BY_MAGIC:
        if start.startswith(magic):
            return mime
    if start.startswith(b"RIFF") and start.endswith(b"WEBP"):
        return "image/webp"
    raise CommandError(f"{path} is not a JPEG, PNG or WebP image; convert it to one of these")


def data_url(path: Path) -> str:
    """Return an image as a data: URL; raises CommandError for what cannot be used."""
    mime = image_mime(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from error
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"
