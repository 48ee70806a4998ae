"""A chat request of about 1 MB that holds one image, and the place where it can be made another.

The image is a 1536 x 1536 RGB JPEG of about 750 KB: what a camera or a film digitiser exports. Four
base64 digits of it spell three entries of its luminance quantisation table. `loadgen --salt`
overwrites them with digits that spell no zero byte: every value gives a valid JPEG with other
pixels, so that neither a hash of the upload nor one of the decoded image repeats.
"""

import base64
import io
import random
from dataclasses import dataclass
from pathlib import Path

import msgspec
from PIL import Image

SIZE_PX = 1536
NOISE = 0.14
QUALITY = 90
SALT_DIGITS = 4
SALTED_ENTRY = 3  # zigzag position of the first of three entries: low frequencies survive a resize


@dataclass(frozen=True, slots=True)
class ImageBody:
    """A request body.

    Args:
        path: the JSON, for `loadgen --body`.
        salt: the digits that `loadgen --salt` may overwrite; they occur once.
    """

    path: Path
    salt: str


def write_image_body(folder: Path, *, num_tokens: int = 64) -> ImageBody:
    """Write the body into `folder` (the same bytes every time) and return it."""
    jpeg, salted_at = align_quantisation_table(_jpeg())
    digits = base64.b64encode(jpeg).decode()
    salt = _unique_salt(digits)
    at = salted_at // 3 * SALT_DIGITS
    url = f"data:image/jpeg;base64,{digits[:at]}{salt}{digits[at + SALT_DIGITS :]}"
    path = folder / "image_body.json"
    path.write_bytes(msgspec.json.encode(_chat_request(url, num_tokens)))
    return ImageBody(path, salt)


def align_quantisation_table(jpeg: bytes) -> tuple[bytes, int]:
    """Pad `jpeg` with a comment so that the salted entries begin a group of four base64 digits.

    Returns:
        the padded file and the offset of the first salted entry, a multiple of 3.
    """
    table = jpeg.index(
        b"\xff\xdb"
    )  # ITU-T T.81, B.2.4.1: DQT, length (2 bytes), Pq and Tq, entries
    entries = table + 5
    padding = -(entries + SALTED_ENTRY + 4) % 3
    comment = b"\xff\xfe" + (2 + padding).to_bytes(2, "big") + b" " * padding  # B.2.4.5: COM
    return jpeg[:table] + comment + jpeg[table:], entries + len(comment) + SALTED_ENTRY


def _jpeg() -> bytes:
    noise = random.Random(7).randbytes(SIZE_PX * SIZE_PX * 3)
    grain = Image.frombytes("RGB", (SIZE_PX, SIZE_PX), noise)
    film = Image.radial_gradient("L").resize((SIZE_PX, SIZE_PX)).convert("RGB")
    file = io.BytesIO()
    Image.blend(film, grain, NOISE).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _unique_salt(digits: str) -> str:
    candidates = (f"Galen{number}"[-SALT_DIGITS:] for number in range(10, 100))
    return next(salt for salt in candidates if salt not in digits)


def _chat_request(url: str, num_tokens: int) -> dict[str, object]:
    return {
        "model": "mock",
        "max_tokens": num_tokens,
        "stream": False,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": f"Count please [[n={num_tokens} t=0 d=0]]"},
                    {"type": "image_url", "image_url": {"url": url}},
                ],
            }
        ],
    }
