"""First inputs of each front door: drawn images, pydicom's own files, small volumes, JSON bodies.

Made anew for each run; nothing binary is kept in the repository.
"""

import json
import struct
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import Image

from tests.gateway.media.image_files import (
    OTHER_TYPES,
    apng,
    b64,
    noise,
    png,
    saved,
    text_bombs,
)
from tests.modeling.medical_images.dicom_files import ct, dicom, nested, raw_file
from tests.modeling.medical_images.nifti_files import nifti
from tests.modeling.medical_images.shipped import shipped_files

_MOST_SHIPPED_BYTES = 80_000
_IMAGE_OPTIONS: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "1", {}), ("PNG", "LA", {}), ("PNG", "RGBA", {}),
    ("JPEG", "RGB", {}), ("JPEG", "RGB", {"progressive": True}), ("JPEG", "CMYK", {}),
    ("JPEG", "L", {}), ("WEBP", "RGB", {}), ("WEBP", "RGB", {"lossless": True}),
    ("WEBP", "RGBA", {}), ("GIF", "P", {}), ("BMP", "RGB", {}), ("BMP", "P", {}), ("BMP", "1", {}),
    ("TIFF", "RGB", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "L", {"compression": "packbits"}), ("TIFF", "1", {"compression": "group4"}),
    ("TIFF", "RGB", {"compression": "jpeg"}), ("TIFF", "CMYK", {"compression": "tiff_deflate"}),
    ("TIFF", "F", {}), ("TIFF", "I;16", {}),
)  # fmt: skip


def images() -> Iterator[bytes]:
    """Small images of every format that is taken, plain and odd ones."""
    picture = noise(40, 32)
    for name, mode, options in _IMAGE_OPTIONS:
        image = Image.new("I;16", picture.size, 40_000) if mode == "I;16" else picture.convert(mode)
        yield saved(image, name, **options)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("JPEG", "PNG", "WEBP", "TIFF"):
        yield saved(picture, name, exif=exif)
    for name in ("GIF", "TIFF", "WEBP", "PNG"):
        yield saved(picture, name, save_all=True, append_images=[picture.rotate(90)])
    yield apng(3)
    yield png(64, 64, before_pixels=text_bombs()["zTXt"])
    yield png(30_000, 30_000, pixels=b"")


def dicoms() -> Iterator[bytes]:
    """The files that come with pydicom, as far as they are small, and our own."""
    for path in shipped_files():
        if path.stat().st_size <= _MOST_SHIPPED_BYTES:
            file = path.read_bytes()
            if file[128:132] == b"DICM":
                yield file
    ramp = np.arange(32 * 32, dtype=np.int16).reshape(32, 32)
    yield dicom(ramp)
    yield ct(ramp, WindowCenter=[40, 50], WindowWidth=[400, 100])
    yield dicom(np.stack([ramp] * 3))
    yield dicom(np.zeros((32, 32, 3), np.uint8), BurnedInAnnotation="YES", Modality="US")
    yield nested(40)
    yield raw_file(b"")


def niftis() -> Iterator[bytes]:
    """Volumes and a series, packed or not."""
    volume = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    for kind in (np.uint8, np.int16, np.float32, np.float64):
        yield nifti(volume.astype(kind))
    yield nifti(volume, is_packed=True)
    yield nifti(np.stack([volume] * 2, axis=-1))
    turned = np.array([[0, 0, 2.0, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    yield nifti(volume, affine=turned)


def bodies() -> Iterator[bytes]:
    """JSON bodies, good ones and bad ones of the catalogue."""
    # deferred: the catalogue draws its images when it is loaded
    from tests.end_to_end.bad_requests import GOOD, JSON_ROWS, PARAMETER_ROWS  # noqa: PLC0415

    yield GOOD
    yield from (row.body for row in (*JSON_ROWS, *PARAMETER_ROWS) if len(row.body) < 4096)
    yield b'{"a": "@@", "@@": ["@@", {}]}'
    yield b'{"a":"data:' + b"A" * 20_000 + b'","b":[1e5,-0.0,"\\ud83d\\ude00"]}'


def data_urls() -> Iterator[bytes]:
    """Each small image as a data URL, and some of other schemes."""
    for file in images():
        if len(file) < 8192:
            yield b"data:image/png;base64," + b64(file).encode()
    yield b"DATA:Application/DICOM;a=b;BASE64,AAAA"
    yield from (b"https://a/b.png", b"file:///a", b"data:;base64,", b"data:text/html,x")


def urls() -> Iterator[bytes]:
    """Addresses of allowed hosts and of others."""
    yield b"https://scans.example.org/a/b.png?x=1&y=[2]"
    yield b"https://ward-3.pacs.example.org:8443/"
    yield b"https://scans.example.org:443/~a"
    yield from (b"https://127.0.0.1/", b"http://user@scans.example.org\\@evil.example/")


def safetensors() -> Iterator[bytes]:
    """Headers of a few tensors, whole and wrong."""
    entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
    other = {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]}
    for header in ({"a": entry, "b": other}, {"a": entry}, {"__metadata__": {"k": "v"}}, {}, []):
        blob = json.dumps(header).encode()
        yield struct.pack("<Q", len(blob)) + blob + bytes(24)
    yield struct.pack("<Q", 2**63) + b"{}"


def _chosen(files: Iterable[bytes]) -> Iterator[bytes]:
    """Medical inputs end with a byte that chooses."""
    for index, file in enumerate(files):
        yield file + bytes([0])
        yield file + bytes([index % 8])


SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "sniff": lambda: (file for source in (images(), dicoms(), niftis(), OTHER_TYPES.values())
                      for file in source),
    "image": images,
    "dicom": lambda: _chosen(dicoms()),
    "nifti": lambda: _chosen(niftis()),
    "json": bodies,
    "data-url": data_urls,
    "url": urls,
    "safetensors": safetensors,
}  # fmt: skip
