"""The decoder child: turns untrusted image files into clean pixels, in a process that may die.

It runs as `python -m services.gateway.media.decode_process` under `decoder.py`, with bounds on
memory, CPU time and files, without the parent's environment, and dies with its parent. A job that
runs out of CPU time kills the child; the parent calls that an invalid image. Messages to clients
come from the texts below: those of Pillow may hold addresses (CVE-2026-22778). What does *not* live
here: the pixels' way to the model's input (`modeling.image_processing`, `image_recipe`), and DICOM
and NIfTI (`modeling.medical_images`), whose libraries are loaded with the first such file.
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
from types import ModuleType
from typing import BinaryIO

import pybase64
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from modeling import image_processing
from modeling.image_recipe import apply_recipe
from modeling.medical_images.choice import AS_IT_IS, Facts
from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.signatures import is_dicom
from services.die_with_parent import die_with_parent
from services.gateway.media.data_url import FORMAT_BY_MIME
from services.gateway.media.decode_messages import (
    LENGTH,
    Answer,
    DecodedImage,
    DecodeJob,
    Encoding,
    Preparation,
    Refusal,
    encoder,
    job_decoder,
)
from services.gateway.media.header_size import Size, check_size, too_large
from services.gateway.media.image_format import (
    MAX_WEBP_PIXELS,
    ImageFormat,
    sniff_format,
    webp_size,
)
from services.protocol.errors import ErrorCode, RequestError

MEMORY_HEADROOM_BYTES = 1024 * 1024 * 1024
"""Address space above that of the idle child; the hungriest image of 40 megapixels takes half."""

_PLUGINS = (
    BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin,
    WebPImagePlugin,
)  # fmt: skip
"""Registered by being imported."""
_MEDICAL = ("DICOM", "NIFTI")
_JPEG_QUALITIES = (95, 90, 85, 80, 70, 60, 50, 30)
_PROBE_ROWS = 64
_PROBE_TOLERANCE = 1.5  # the middle of a radiograph compresses worse than its rim
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


def main() -> None:
    """Answer jobs until stdin ends."""
    _limit_this_process()
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    _write_frame(answers, b"")
    silence = os.open(os.devnull, os.O_WRONLY)
    # nothing of an image leaks, and no decoder's printing gets between our answers
    os.dup2(silence, sys.stderr.fileno())
    os.dup2(silence, sys.stdout.fileno())
    while header := _read_frame(jobs):
        job = job_decoder.decode(header)
        if FORMAT_BY_MIME[job.declared_mime] in _MEDICAL:
            _load_medical()  # once, and not out of the image's own time
        signal.setitimer(signal.ITIMER_PROF, job.cpu_limit_s)
        answer = answer_job(job, jobs.read(job.payload_length))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write_frame(answers, encoder.encode(answer))


def decode_image(job: DecodeJob, payload: bytes) -> DecodedImage:
    """Decode, check and preprocess one image; raises RequestError for one that is not taken."""
    file = _decode_base64(payload)
    del payload
    image, facts = _read(file, job)
    del file
    rgb = image_processing.normalise_to_rgb(image)
    del image
    fitted = _fit(rgb, job.preparation)
    del rgb
    encoding, data = _encoded(fitted, job)
    return DecodedImage(
        width=fitted.width,
        height=fitted.height,
        mode="RGB",
        encoding=encoding,
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        source_pixels=facts.width * facts.height,
        preprocessing_version=image_processing.PREPROCESSING_VERSION,
        facts=facts,
    )


def answer_job(job: DecodeJob, payload: bytes) -> Answer:
    """Return clean pixels or why there are none, whatever a decoder raises."""
    try:
        return decode_image(job, payload)
    except RequestError as error:
        return Refusal(error.code, error.message)
    except MedicalImageError as error:
        return Refusal(error.code, error.message, error.field)
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


def _read(file: bytes, job: DecodeJob) -> tuple[Image.Image, Facts]:
    found = _checked_format(file, job.declared_mime)
    if found in _MEDICAL:
        reading, preparation = _load_medical(), job.preparation
        policy = reading.Policy(
            job.max_pixels, preparation.burned_in, preparation.is_heuristic, may_die=True
        )
        image, facts = reading.read_medical(file, preparation.choice, policy)
        check_size(Size(*image.size), job.max_pixels)
        return image, facts
    if job.preparation.choice != AS_IT_IS:
        raise RequestError(
            ErrorCode.INVALID_VALUE,
            f"frames, windows and recipes are for DICOM and NIfTI; this image is {found}",
        )
    image = _open_image(file, found, job.max_pixels)
    facts = Facts(format=found, width=image.width, height=image.height)
    image.load()
    return image, facts


def _load_medical() -> ModuleType:
    # 40 MiB and 0.3 s, which a child that only sees photographs need not spend
    from modeling.medical_images import reading  # noqa: PLC0415

    return reading


def _checked_format(file: bytes, declared_mime: str) -> ImageFormat:
    if FORMAT_BY_MIME[declared_mime] == "DICOM" and not is_dicom(file):
        raise RequestError(
            ErrorCode.INVALID_DICOM, "the file has no DICOM preamble (128 bytes, then DICM)"
        )
    found = sniff_format(file)
    if found != FORMAT_BY_MIME[declared_mime]:
        raise RequestError(
            ErrorCode.INVALID_IMAGE,
            f"the image is declared as {declared_mime} but its bytes are {found}",
        )
    return found


def _open_image(file: bytes, found: ImageFormat, max_pixels: int) -> Image.Image:
    """Read the header only, and refuse what its size forbids."""
    if found == "WEBP":  # its decoder allocates the canvas when it is opened
        max_pixels = min(max_pixels, MAX_WEBP_PIXELS)
        check_size(Size(*webp_size(file)), max_pixels)
    Image.MAX_IMAGE_PIXELS = max_pixels
    image = Image.open(io.BytesIO(file), formats=[found])
    check_size(Size(*image.size), max_pixels)
    return image


def _fit(image: Image.Image, preparation: Preparation) -> Image.Image:
    if preparation.recipe is None:
        return image_processing.cap_pixels(image, preparation.fit_pixels)
    return apply_recipe(image, preparation.recipe)


def _encoded(image: Image.Image, job: DecodeJob) -> tuple[Encoding, bytes]:
    if job.is_preview:
        return "png", _saved(image, "PNG", compress_level=1)
    data = image.tobytes()
    if len(data) <= job.max_data_bytes:
        return "rgb8", data
    return _compress(image, job.max_data_bytes)


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
