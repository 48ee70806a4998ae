"""What an image file really is: its format and size, once it has been decoded.

One limit for all data tools: what one of them keeps, the next one reads. What does *not* live here:
where it comes from.
"""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")
MOST_PIXELS = 200_000_000
"""More than any figure of an article; 600 MB when it is decoded."""
NO_IMAGE = "no-image"
TOO_MANY_PIXELS = "too-many-pixels"

# Pillow warns at half of what it refuses, by default below what we allow.
Image.MAX_IMAGE_PIXELS = MOST_PIXELS


class ImageError(Exception):
    """A file that is not kept.

    Args:
        reason: TOO_MANY_PIXELS or NO_IMAGE.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Looks:
    """What Pillow says of an image."""

    format: str
    width: int
    height: int


def look_at(file: Path | str, most_pixels: int = MOST_PIXELS) -> Looks:
    """Decode an image; raises ImageError where it is none, or is too large."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            looks = Looks(image.format or "", *image.size)
            if looks.width * looks.height > most_pixels:
                raise ImageError(TOO_MANY_PIXELS)  # noqa: TRY301 - one place that decides
            # All of a JPEG's bytes are read, and an eighth of each side is drawn: 4 times as fast.
            image.draft("RGB", (max(1, looks.width // 8), max(1, looks.height // 8)))
            image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(TOO_MANY_PIXELS) from error
    except ImageError:
        raise
    # Pillow's decoders raise whatever they stumble over; the file was written a moment ago.
    except Exception as error:
        raise ImageError(NO_IMAGE) from error
    return looks
