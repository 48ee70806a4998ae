"""What the fuzzer begins with: drawn images of every format, pydicom's files, a few texts."""

import base64
import gzip
import io
from collections.abc import Iterator

import nibabel
import numpy as np
from PIL import Image

from tests.modeling.medical_images.shipped import shipped_files

MOST_BYTES = 64 << 10
_TEXTS = {
    "json": (
        b'{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}',
        b'{"a": [1, -2.5e3, true, null, "\\ud83d\\ude00\\u0000"], "b": "@@", "c": ["@@", {}]}',
        b"[[[[[[]]]]]]",
        b'"@@"',
    ),
    "data-url": (
        b"data:image/png;base64,iVBORw0KGgo=",
        b"DATA:image/JPEG;name=a.jpg;base64,/9j/4A==",
        b"data:application/dicom;base64,AAAA",
    ),
    "url": (
        b"https://scans.example.org/a/b.png?x=1&y=[2]",
        b"https://ward-3.pacs.example.org:8443/",
        b"https://scans.example.org:443/~a",
        b"https://127.0.0.1/",
        b"http://user@scans.example.org\\@evil.example/",
    ),
}


def seeds(target: str) -> Iterator[bytes]:
    """Yield inputs for a target, each of at most `MOST_BYTES`."""
    if target in _TEXTS:
        yield from _TEXTS[target]
        return
    found = [*_photographs()] if target in ("image", "header") else []
    if target != "image":
        found += [*_medical()]
    for each in found:
        if target == "header":
            yield base64.b64encode(each)[:4096]
        elif target == "dicom":
            yield each[132:]
        elif len(each) <= MOST_BYTES:
            yield each


def _photographs() -> Iterator[bytes]:
    draw = np.random.default_rng(0)
    colours = Image.fromarray(draw.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    for mode in ("RGB", "L", "1", "P", "RGBA", "CMYK", "I;16", "LA"):
        for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"):
            file = io.BytesIO()
            try:
                plain = colours.convert("L" if mode == "I;16" else mode)
                plain.convert(mode).save(file, kind)
            except (OSError, ValueError, KeyError):  # no such mode in this format
                continue
            yield file.getvalue()
    for compression in ("tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg"):
        file = io.BytesIO()
        colours.save(file, "TIFF", compression=compression)
        yield file.getvalue()
    file = io.BytesIO()
    colours.save(file, "JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    yield file.getvalue()


def _medical() -> Iterator[bytes]:
    for path in shipped_files():
        file = path.read_bytes()
        if file[128:132] == b"DICM" and len(file) <= MOST_BYTES:
            yield file
    volume = np.arange(32 * 32 * 3, dtype=np.int16).reshape(32, 32, 3)
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        plain = kind(volume, np.eye(4)).to_bytes()
        yield plain
        yield gzip.compress(plain, mtime=0)
