"""The decoder child: turns untrusted image files into clean pixels, in a process that may die.

It runs as `python -m services.gateway.media.decode_process` under `decoder.py`, with bounds on
memory, CPU time and files, without the parent's environment, and dies with its parent. A job that
runs out of CPU time kills the child; the parent calls that an invalid image. Messages to clients
come from the texts below: those of Pillow may hold addresses (CVE-2026-22778). What does *not* live
here: the pixels' way to the model's input (`modeling.image_processing`, `image_recipe`).
"""

import ctypes
import hashlib
import io
import os
import resource
import signal
import sys
import warnings
from pathlib import Path
from typing import BinaryIO

import pybase64
from PIL import Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from modeling import image_processing
from modeling.image_recipe import apply_recipe
from services.die_with_parent import die_with_parent
from services.gateway.media.data_url import FORMAT_BY_MIME
from services.gateway.media.decode_messages import (
    LENGTH,
    Answer,
    DecodedImage,
    DecodeJob,
    Encoding,
    Refusal,
    encoder,
    job_decoder,
)
from services.gateway.media.header_size import Size, check_size, too_large
from services.gateway.media.image_format import sniff_format, webp_size
from services.protocol.errors import ErrorCode, RequestError
from services.protocol.messages import ImageRecipe

MAX_WEBP_PIXELS = 28_000_000
"""libwebp's animation decoder holds four copies of the canvas (measured: 480 MiB at this size)."""
MEMORY_HEADROOM_BYTES = 1024 * 1024 * 1024
"""Address space above that of the idle child; the hungriest image of 40 megapixels takes half."""

_PLUGINS = (JpegImagePlugin, PngImagePlugin, WebPImagePlugin)  # registered by being imported
_JPEG_QUALITIES = (95, 90, 85, 80, 70, 60, 50, 30)
_PROBE_ROWS = 64
_PROBE_TOLERANCE = 1.5  # the middle of a radiograph compresses worse than its rim
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def main() -> None:
    """Answer jobs until stdin ends."""
    _limit_this_process()
    jobs, answers = sys.stdin.buffer, sys.stdout.buffer
    _write_frame(answers, b"")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # nothing of an image leaks
    while header := _read_frame(jobs):
        job = job_decoder.decode(header)
        signal.setitimer(signal.ITIMER_PROF, job.cpu_limit_s)
        answer = _answer(job, jobs.read(job.payload_length))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write_frame(answers, encoder.encode(answer))


def decode_image(job: DecodeJob, payload: bytes) -> DecodedImage:
    """Decode, check and preprocess one image; raises RequestError for one that is not taken."""
    file = _decode_base64(payload)
    del payload
    image = _open_image(file, job.declared_mime, job.max_pixels)
    del file
    source_pixels = image.width * image.height
    image.load()
    rgb = image_processing.normalise_to_rgb(image)
    image = _fit(rgb, job.recipe)
    del rgb
    encoding: Encoding = "rgb8"
    data = image.tobytes()
    if len(data) > job.max_data_bytes:
        encoding, data = _compress(image, job.max_data_bytes)
    return DecodedImage(
        width=image.width,
        height=image.height,
        mode="RGB",
        encoding=encoding,
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        source_pixels=source_pixels,
        preprocessing_version=image_processing.PREPROCESSING_VERSION,
    )


def _answer(job: DecodeJob, payload: bytes) -> Answer:
    try:
        return decode_image(job, payload)
    except RequestError as error:
        return Refusal(error.code, error.message)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Refusal(ErrorCode.IMAGE_TOO_LARGE, too_large(job.max_pixels))
    except Exception:  # noqa: BLE001 - the border of a job: a decoder raises whatever it likes
        return Refusal(
            ErrorCode.INVALID_IMAGE, "the image cannot be decoded: it is damaged or truncated"
        )


def _decode_base64(payload: bytes) -> bytes:
    try:
        return pybase64.b64decode(payload, validate=True)
    except ValueError as error:
        raise RequestError(
            ErrorCode.INVALID_IMAGE, "the image is not valid base64 without spaces or line breaks"
        ) from error


def _open_image(file: bytes, declared_mime: str, max_pixels: int) -> Image.Image:
    """Read the header only, and refuse what its size or type forbids."""
    found = sniff_format(file)
    if found != FORMAT_BY_MIME[declared_mime]:
        raise RequestError(
            ErrorCode.INVALID_IMAGE,
            f"the image is declared as {declared_mime} but its bytes are {found}",
        )
    if found == "WEBP":  # its decoder allocates the canvas when it is opened
        max_pixels = min(max_pixels, MAX_WEBP_PIXELS)
        check_size(Size(*webp_size(file)), max_pixels)
    Image.MAX_IMAGE_PIXELS = max_pixels
    image = Image.open(io.BytesIO(file), formats=[found])
    check_size(Size(*image.size), max_pixels)
    return image


def _fit(image: Image.Image, recipe: ImageRecipe | None) -> Image.Image:
    if recipe is None:
        return image_processing.cap_pixels(image)
    return apply_recipe(image, recipe)


def _compress(image: Image.Image, max_bytes: int) -> tuple[Encoding, bytes]:
    """Return PNG where it fits (drawings, screenshots), else JPEG of the best quality that does."""
    if _may_fit_as_png(image, max_bytes):
        data = _saved(image, "PNG", compress_level=1)
        if len(data) <= max_bytes:
            return "png", data
    for quality in _JPEG_QUALITIES:
        data = _saved(image, "JPEG", quality=quality)
        if len(data) <= max_bytes:
            return "jpeg", data
    raise RequestError(
        ErrorCode.IMAGE_TOO_LARGE, "the image cannot be compressed enough; scale it down"
    )


def _may_fit_as_png(image: Image.Image, max_bytes: int) -> bool:
    """Try a strip from the middle: PNG takes 25 times as long as JPEG, mostly for nothing."""
    top = max(image.height - _PROBE_ROWS, 0) // 2
    probe = image.crop((0, top, image.width, min(top + _PROBE_ROWS, image.height)))
    estimate = len(_saved(probe, "PNG", compress_level=1)) * image.height / probe.height
    return estimate <= _PROBE_TOLERANCE * max_bytes


def _saved(image: Image.Image, image_format: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def _read_frame(stream: BinaryIO) -> bytes:
    prefix = stream.read(LENGTH.size)
    return stream.read(LENGTH.unpack(prefix)[0]) if prefix else b""


def _write_frame(stream: BinaryIO, frame: bytes) -> None:
    stream.write(LENGTH.pack(len(frame)))
    stream.write(frame)
    stream.flush()


def _limit_this_process() -> None:
    """Give up what decoding does not need. The parent's death or end of stdin ends us too."""
    if sys.platform == "linux":
        die_with_parent()
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_DUMPABLE, 0)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # it checks the unused ones
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        limit = pages * resource.getpagesize() + MEMORY_HEADROOM_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the gateway, which drains first
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # kills, also inside a decoder's C code
    os.nice(5)  # the gateway's event loop goes first
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)


if __name__ == "__main__":
    main()
