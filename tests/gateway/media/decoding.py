"""What the tests of the decoder share: decode a file, or hear why it is refused."""

import io
from pathlib import Path

import psutil
import pytest
from PIL import Image

from modeling.medical_images.choice import AS_IT_IS, Choice
from services.gateway.media.decode_messages import DecodedImage, Preparation
from services.gateway.media.decoder import ImageDecoder
from services.protocol.errors import ErrorCode, RequestError
from services.protocol.messages import ImageRecipe
from tests.gateway.media.image_files import b64, noise, saved


async def decode(
    decoder: ImageDecoder, file: bytes, kind: str = "png", recipe: ImageRecipe | None = None
) -> DecodedImage:
    return await decoder.decode(b64(file), mime_of(kind), Preparation(recipe))


def mime_of(kind: str) -> str:
    return f"application/{kind}" if kind in ("dicom", "x-nifti") else f"image/{kind}"


async def refusal(
    decoder: ImageDecoder, file: bytes, kind: str = "png", choice: Choice = AS_IT_IS
) -> ErrorCode:
    """Return why `file` is refused, having checked that the next good image is taken."""
    payload = b64(file)
    rss_before = psutil.Process().memory_info().rss
    with pytest.raises(RequestError) as caught:
        await decoder.decode(payload, mime_of(kind), Preparation(choice=choice))
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


def peak_rss_kib(pid: int) -> int:
    """Return the most memory that a process has held."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])
