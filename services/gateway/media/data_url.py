"""Reads the `image_url.url` of an OpenAI message: which type is declared, where its base64 begins.

Pure, and decodes nothing: the size limit is checked on the length of the base64 text. What does
*not* live here: whether the base64 is valid and what it holds (`decode_process.py`).
"""

from dataclasses import dataclass

from services.protocol.errors import ErrorCode, RequestError

MAX_IMAGE_BYTES = 20 * 1024 * 1024
"""Decoded bytes of one image: the size of an image upload that OpenAI's own API takes."""

FORMAT_BY_MIME = {
    "image/jpeg": "JPEG",
    "image/jpg": "JPEG",  # not registered with IANA, but often sent
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/tiff": "TIFF",
    "image/bmp": "BMP",
    "image/x-ms-bmp": "BMP",
    "image/gif": "GIF",
    "application/dicom": "DICOM",
    "application/x-nifti": "NIFTI",  # nothing is registered with IANA
    "application/nifti": "NIFTI",
    "application/gzip": "NIFTI",  # .nii.gz
}

MIME_BY_FORMAT = {name: mime for mime, name in reversed(FORMAT_BY_MIME.items())}

# `data:`, a media type and a few parameters; the longest real one is below 100 characters.
_MAX_HEADER_LENGTH = 256
_ACCEPTED = (
    "this server takes data: URLs of JPEG, PNG, WebP, TIFF, BMP, GIF, DICOM and NIfTI files,"
    " base64-encoded"
)


@dataclass(frozen=True, slots=True)
class DataUrl:
    """A checked data URL. Its payload is a part of `url` and is not copied out of it.

    Args:
        declared_mime: one of `FORMAT_BY_MIME`, lower case.
        payload_start: index in `url` of the first character of the base64.
        decoded_bytes: length of the image once decoded.
    """

    url: str
    declared_mime: str
    payload_start: int
    decoded_bytes: int


def parse_data_url(url: str, *, max_bytes: int = MAX_IMAGE_BYTES, param: str = "url") -> DataUrl:
    """Return the parts of `url`; raises RequestError with `param` for anything but a data URL."""
    _check_scheme(url, param)
    comma = url.find(",", 0, _MAX_HEADER_LENGTH)
    if comma < 0 or not url.isascii():
        raise RequestError(
            ErrorCode.INVALID_IMAGE, f"the data: URL is malformed; {_ACCEPTED}", param=param
        )
    mime, *attributes = url[len("data:") : comma].lower().split(";")
    if mime not in FORMAT_BY_MIME:
        raise RequestError(
            ErrorCode.UNSUPPORTED_IMAGE_TYPE,
            f"the media type {mime[:40]!r} is not supported; {_ACCEPTED}",
            param=param,
        )
    if not attributes or attributes[-1] != "base64":
        raise RequestError(
            ErrorCode.INVALID_IMAGE, f"the data: URL is not base64; {_ACCEPTED}", param=param
        )
    decoded_bytes = _check_length(url, comma + 1, max_bytes, param)
    return DataUrl(url, mime, comma + 1, decoded_bytes)


def _check_scheme(url: str, param: str) -> None:
    start = url[:8].lower()
    if start.startswith(("http:", "https:")):
        raise RequestError(
            ErrorCode.URL_FETCH_DISABLED,
            f"images are not fetched from URLs; {_ACCEPTED}",
            param=param,
        )
    if not start.startswith("data:"):
        raise RequestError(
            ErrorCode.INVALID_IMAGE, f"the image is not a data: URL; {_ACCEPTED}", param=param
        )


def _check_length(url: str, payload_start: int, max_bytes: int, param: str) -> int:
    """Return the decoded length, from the length of the base64 alone."""
    length = len(url) - payload_start
    if length == 0:
        raise RequestError(ErrorCode.INVALID_IMAGE, "the image is empty", param=param)
    if length // 4 * 3 - 2 > max_bytes:
        raise RequestError(
            ErrorCode.IMAGE_TOO_LARGE,
            f"the image has about {length // 4 * 3} bytes; at most {max_bytes} are taken",
            param=param,
        )
    if length % 4:
        raise RequestError(
            ErrorCode.INVALID_IMAGE,
            "the base64 of the image is not padded to a multiple of 4 characters, or has line"
            " breaks or spaces in it",
            param=param,
        )
    decoded_bytes = length // 4 * 3 - url.count("=", len(url) - 2)
    if decoded_bytes > max_bytes:
        raise RequestError(
            ErrorCode.IMAGE_TOO_LARGE,
            f"the image has {decoded_bytes} bytes; at most {max_bytes} are taken",
            param=param,
        )
    return decoded_bytes
