"""The 1 MB body holds a valid image under every salt, each time another one."""

import base64
import io
import json
from pathlib import Path

from PIL import Image

from benchmarks.image_body import write_image_body


def _decoded(body: str) -> bytes:
    url = json.loads(body)["messages"][0]["content"][1]["image_url"]["url"]
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2], validate=True)))
    return image.resize((224, 224), Image.Resampling.BICUBIC).tobytes()


def test_every_salt_gives_a_valid_image_with_other_pixels_even_after_a_resize(
    tmp_path: Path,
) -> None:
    body = write_image_body(tmp_path)
    text = body.path.read_text()

    assert 950_000 < len(text) < 1_050_000
    assert text.count(body.salt) == 1
    pixels = {
        _decoded(text.replace(body.salt, salt)) for salt in (body.salt, "BBBB", "CBBB", "9z/+")
    }
    assert len(pixels) == 4
