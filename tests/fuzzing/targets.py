"""What is fuzzed: the readers that see a stranger's bytes first, and what must hold of each.

A target takes bytes and returns; what it raises is a finding. Where a second reader exists that is
independent of ours, both must agree (the standard library's JSON and URL, the pixels themselves).
What does *not* live here: where inputs come from (`seeds.py`), the fuzzer (`__main__.py`).
"""

import base64
import json
from collections.abc import Callable
from urllib.parse import urlsplit

from modeling.medical_images.choice import Choice, Facts
from modeling.medical_images.dicom import may_abort
from modeling.medical_images.dicom_header import read_header
from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.reading import Policy, is_medical, read_medical
from modeling.medical_images.signatures import is_dicom
from services.gateway import strict_json
from services.gateway.media.data_url import parse_data_url
from services.gateway.media.decode_messages import PLAIN, DecodeJob
from services.gateway.media.decode_process import decode_image
from services.gateway.media.header_size import header_size
from services.gateway.media.image_format import sniff_format
from services.gateway.url_policy import check_url, read_rule
from services.protocol.errors import RequestError, TooLargeError

MAX_PIXELS = 4_000_000
_MIME = {
    "BMP": "image/bmp", "GIF": "image/gif", "JPEG": "image/jpeg", "PNG": "image/png",
    "TIFF": "image/tiff", "WEBP": "image/webp",
}  # fmt: skip
_POLICY = Policy(MAX_PIXELS, "mask", is_heuristic=True)
_CHOICES = (
    Choice(), Choice(frame=1), Choice(window="lung"), Choice(recipe="ct-three-windows"),
)  # fmt: skip
_HOST, _DOMAIN = "scans.example.org", "pacs.example.org"
_RULES = tuple(read_rule(rule) for rule in (_HOST, f"*.{_DOMAIN}:8443"))
_LONG_URL = "data:image/png;base64," + "QUJD" * 6000
"""Long enough to be cut out of a body before the rest is parsed."""


def image(data: bytes) -> None:
    """A photograph's file: pixels or a refusal, and the header says the size of the pixels."""
    try:
        found = sniff_format(data)
    except RequestError:
        return
    if found not in _MIME:
        return
    payload = base64.b64encode(data)
    job = DecodeJob(len(payload), _MIME[found], PLAIN, MAX_PIXELS, 1 << 20, 5.0)
    size = header_size(payload.decode())
    try:
        decoded = decode_image(job, payload)
    except Exception:  # noqa: BLE001 - Pillow raises what it likes, and the child answers for it
        return
    _same_size(size, decoded.facts)
    if decoded.encoding == "rgb8" and len(decoded.data) != 3 * decoded.width * decoded.height:
        raise AssertionError("the answer has another size than it says")


def medical(data: bytes) -> None:
    """A DICOM or NIfTI file, with each kind of choice: an image, or a refusal of ours."""
    if not is_medical(data) or _is_read_apart(data):
        return
    size = header_size(base64.b64encode(data).decode())
    for choice in _CHOICES:
        try:
            taken, facts = read_medical(data, choice, _POLICY)
        except MedicalImageError:
            continue
        if taken.mode not in ("L", "RGB") or taken.width * taken.height > MAX_PIXELS:
            raise AssertionError("a mode or a size that nobody allowed")
        _same_size(size, facts)


def dicom(data: bytes) -> None:
    """The same behind a preamble, so that mutations are not lost on the 132 bytes of it."""
    medical(bytes(128) + b"DICM" + data)


def header(data: bytes) -> None:
    """Sizes from base64, which may be none: never an error."""
    header_size(data.decode("latin-1"))


def json_body(data: bytes) -> None:
    """A body: our value is the standard library's, or it is refused."""
    data = data.replace(b"@@", _LONG_URL.encode())
    try:
        value = strict_json.parse(data)
    except (RequestError, TooLargeError):
        return
    if value != json.loads(data):
        raise AssertionError("another value than the standard library's")


def data_url(data: bytes) -> None:
    """A data URL: its length is foretold where its base64 is good."""
    text = data.decode("latin-1")
    try:
        parsed = parse_data_url(text)
    except RequestError:
        return
    try:
        decoded = base64.b64decode(text[parsed.payload_start :], validate=True)
    except ValueError:
        return
    if len(decoded) != parsed.decoded_bytes:
        raise AssertionError("another length than the one foretold")


def url(data: bytes) -> None:
    """An address of an image: what we let pass is an allowed host for the standard library too."""
    text = data.decode("latin-1")
    try:
        check_url(text, _RULES, "url")
    except RequestError:
        return
    parts = urlsplit(text)
    host = (parts.hostname or "").lower()
    is_host = host == _HOST and parts.port in (None, 443)
    is_below = host.endswith(f".{_DOMAIN}") and parts.port == 8443
    if parts.scheme.lower() != "https" or not (is_host or is_below) or parts.username is not None:
        raise AssertionError("passed, and names no allowed host")


def _is_read_apart(data: bytes) -> bool:
    """Whether a process of its own reads the file (lossless JPEG), half a second each time."""
    try:
        return is_dicom(data) and may_abort(read_header(data))
    except Exception:  # noqa: BLE001 - `read_medical` is asked next
        return False


def _same_size(size: tuple[int, int] | None, facts: Facts) -> None:
    if size is None or tuple(size) == (facts.width, facts.height):
        return
    is_wider = facts.format == "GIF" and facts.width >= size[0] and facts.height >= size[1]
    if not is_wider:  # a GIF's frame may reach beyond its screen, which Pillow then enlarges
        pixels = (facts.width, facts.height)
        raise AssertionError(f"the header says {tuple(size)}, the pixels {pixels}")


TARGETS: dict[str, Callable[[bytes], None]] = {
    "image": image,
    "medical": medical,
    "dicom": dicom,
    "header": header,
    "json": json_body,
    "data-url": data_url,
    "url": url,
}
