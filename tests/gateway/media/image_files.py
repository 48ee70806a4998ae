"""Hostile and ordinary image files, as base64, for the tests of the decoder."""

import base64
import io
import struct
import zlib

import numpy as np
from PIL import Image

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def saved(image: Image.Image, image_format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def b64(file: bytes) -> str:
    return base64.b64encode(file).decode()


def data_url(image: Image.Image, image_format: str = "PNG") -> str:
    return f"data:image/{image_format.lower()};base64,{b64(saved(image, image_format))}"


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png(
    width: int,
    height: int,
    *,
    bits: int = 8,
    before_pixels: bytes = b"",
    pixels: bytes | None = None,
    after_pixels: bytes = b"",
) -> bytes:
    """Return a black grey-scale PNG with chunks of one's own choice."""
    if pixels is None:
        pixels = zlib.compress(bytes((1 + (width * bits + 7) // 8) * height), 1)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return (
        PNG_MAGIC
        + chunk(b"IHDR", header)
        + before_pixels
        + chunk(b"IDAT", pixels)
        + after_pixels
        + chunk(b"IEND", b"")
    )


def one_bit_bomb(side: int = 50_000) -> bytes:
    packer = zlib.compressobj(1)
    row = bytes(1 + side // 8)
    rows = b"".join(packer.compress(row * 100) for _ in range(side // 100))
    return png(side, side, bits=1, pixels=rows + packer.flush())


def text_bombs() -> dict[str, bytes]:
    inflated = zlib.compress(bytes(64 * 1024 * 1024), 9)
    return {
        "iCCP": chunk(b"iCCP", b"profile\0\0" + inflated),
        "zTXt": chunk(b"zTXt", b"Comment\0\0" + inflated),
        "iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + inflated),
    }


def apng(num_frames: int, side: int = 64) -> bytes:
    """Return an APNG whose first frame is black and whose others are white."""
    white = zlib.compress((b"\0" + b"\xff" * side) * side, 1)
    frames, sequence = [], 1
    for _ in range(num_frames - 1):
        control = struct.pack(">IIIIIHHBB", sequence, side, side, 0, 0, 1, 10, 0, 0)
        frames.append(chunk(b"fcTL", control))
        frames.append(chunk(b"fdAT", struct.pack(">I", sequence + 1) + white))
        sequence += 2
    first = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, side, side, 0, 0, 1, 10, 0, 0))
    animation = chunk(b"acTL", struct.pack(">II", num_frames, 0)) + first
    return png(side, side, before_pixels=animation, after_pixels=b"".join(frames))


def jpeg_of_declared_size(width: int, height: int) -> bytes:
    """Return a small JPEG whose header claims another size."""
    file = bytearray(saved(noise(64, 64), "JPEG"))
    frame = file.index(b"\xff\xc0")
    file[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(file)


def webp_of_declared_size(width: int, height: int) -> bytes:
    image = noise(64, 64)
    file = bytearray(saved(image, "WEBP", save_all=True, append_images=[image.rotate(90)]))
    assert file[12:16] == b"VP8X"
    file[24:27] = (width - 1).to_bytes(3, "little")
    file[27:30] = (height - 1).to_bytes(3, "little")
    return bytes(file)


OTHER_TYPES = {
    "HTML": b"<!DOCTYPE html><script>alert(1)</script>",
    "HTML with BOM": b"\xef\xbb\xbf<html></html>",
    "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
    "text": "Befund: unauffällig".encode() * 60,
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "EPS with preview": b"\xc5\xd0\xd3\xc6" + bytes(40),
    "PSD": b"8BPS\0\1" + bytes(40),
    "FITS": b"SIMPLE  =                    T" + bytes(40),
    "DDS": b"DDS \x7c\0\0\0" + bytes(200),
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(40),
    "WMF without header": b"\x01\0\x09\0\0\x03" + bytes(40),
    "EMF": b"\x01\0\0\0\x6c\0\0\0" + bytes(80),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "AVIF": b"\0\0\0\x1cftypavif" + bytes(40),
    "ZIP": b"PK\x03\x04" + bytes(40),
    "WAV": b"RIFF\0\0\0\0WAVE",
}
