"""What the tests of the decoder share: decode a file, or hear why it is refused."""

import io

import psutil
import pytest
from PIL import Image

from services.gateway.media.decode_messages import DecodedImage
from services.gateway.media.decoder import ImageDecoder
from services.protocol.errors import ErrorCode, RequestError
from services.protocol.messages import ImageRecipe
from tests.gateway.media.image_files import b64, noise, saved


async def decode(
    decoder: ImageDecoder, file: bytes, kind: str = "png", recipe: ImageRecipe | None = None
) -> DecodedImage:
    return await decoder.decode(b64(file), f"image/{kind}", recipe)


async def refusal(decoder: ImageDecoder, file: bytes, kind: str = "png") -> ErrorCode:
    """Return why `file` is refused, having checked that the next good image is taken."""
    payload = b64(file)
    rss_before = psutil.Process().memory_info().rss
    with pytest.raises(RequestError) as caught:
        await decoder.decode(payload, f"image/{kind}", None)
    assert psutil.Process().memory_info().rss - rss_before < 20 * 1024 * 1024
    good = noise(30, 40)
    assert (await decode(decoder, saved(good, "PNG"))).data == good.tobytes()
    return caught.value.code


def pixels(decoded: DecodedImage) -> Image.Image:
    size = (decoded.width, decoded.height)
    if decoded.encoding == "rgb8":
        return Image.frombytes("RGB", size, decoded.data)
    image = Image.open(io.BytesIO(decoded.data), formats=[decoded.encoding])
    assert image.size == size
    return image
