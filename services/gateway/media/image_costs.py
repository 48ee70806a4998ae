"""What the images of a request cost, from their headers alone: bytes, pixels, tokens.

Everything that can be refused without decoding is refused here; the decoder checks sizes again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.gateway.media.data_url import parse_data_url
from services.gateway.media.decoder import MAX_IMAGE_PIXELS
from services.gateway.media.header_size import check_size, header_size
from services.gateway.media.images import ImageInput, ImageLimits, PixelBudget, check_count
from services.gateway.prompt_costs import UNKNOWN_SIZE, image_tokens
from services.protocol.messages import ModelCard


@dataclass(frozen=True, slots=True)
class ImageCosts:
    """Of all images of a request.

    Args:
        num_bytes: decoded from base64; of those that came in the request.
        pixels: as sent, of those whose header says it.
        tokens: about.
        least_tokens: those that are certain.
    """

    count: int
    num_bytes: int
    pixels: int
    tokens: int
    least_tokens: int


def weigh(images: Sequence[ImageInput], card: ModelCard, limits: ImageLimits) -> ImageCosts:
    """Return what the images of a request cost.

    Raises:
        RequestError: there are too many, or one is no data URL, too large or too small.
    """
    check_count(images, limits, card.max_images)
    budget = PixelBudget(limits.max_total_pixels)
    num_bytes = pixels = tokens = least_tokens = 0
    for image in images:
        url = parse_data_url(image.url, max_bytes=limits.max_image_bytes, param=image.param)
        num_bytes += url.decoded_bytes
        size = header_size(url.url, url.payload_start)
        if size is not None:
            check_size(size, MAX_IMAGE_PIXELS, param=image.param)
            budget.spend(size.pixels, image.param)
            pixels += size.pixels
        count, is_certain = image_tokens(card, size or UNKNOWN_SIZE)
        tokens += count
        has_size = size is not None or card.image_tokens > 0
        least_tokens += count if is_certain and has_size else 1
    return ImageCosts(len(images), num_bytes, pixels, tokens, least_tokens)
