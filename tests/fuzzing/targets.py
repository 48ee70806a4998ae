"""What is fuzzed: the front doors that meet bytes of strangers, and what each may answer.

A door's own documented errors are expected. Any other exception is a finding, and so is a broken
promise (`assert`): two readers of one file that disagree about its size, an answer with a code that
is none. What does *not* live here: the engine (`harness.py`) and first inputs (`seeds.py`).
"""

import base64
import json
import struct
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from modeling.checkpoint_files import CheckpointError
from modeling.checkpoint_files import read_header as read_tensors
from modeling.image_processing import MAX_PIXELS
from modeling.medical_images.choice import AS_IT_IS, Choice
from modeling.medical_images.dicom import may_abort
from modeling.medical_images.dicom_header import read_header
from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.reading import Policy, read_medical
from modeling.medical_images.signatures import is_dicom
from modeling.medical_images.windows import Window
from services.gateway import strict_json
from services.gateway.media.data_url import MIME_BY_FORMAT, parse_data_url
from services.gateway.media.decode_messages import (
    DecodedImage,
    DecodeJob,
    Preparation,
    Refusal,
)
from services.gateway.media.decode_process import answer_job
from services.gateway.media.header_size import Size, header_size
from services.gateway.media.image_format import sniff_format
from services.gateway.url_policy import check_url, read_rule
from services.protocol.errors import ErrorCode, RequestError, TooLargeError
from services.protocol.image_store import MAX_STORED_BYTES

MAX_FUZZED_PIXELS = 1_000_000
"""Below the product's limit: an execution is to take milliseconds."""
_HOST, _DOMAIN = "scans.example.org", "pacs.example.org"
_RULES = tuple(read_rule(rule) for rule in (_HOST, f"*.{_DOMAIN}:8443"))
_LONG_URL = b"data:image/png;base64," + b"QUJD" * 6000
"""Long enough to be cut out of a body before the rest is parsed."""
_CODES = frozenset(code.value for code in ErrorCode)
_CHOICES = (
    AS_IT_IS,
    Choice(frame=2),
    Choice(slice=2),
    Choice(plane="coronal"),
    Choice(plane="sagittal", slice=1),
    Choice(window=Window(40.0, 400.0)),
    Choice(window="lung"),
    Choice(recipe="ct-three-windows"),
)


@dataclass(frozen=True, slots=True)
class Target:
    """A front door.

    Args:
        enter: takes one input.
        expected: the errors that it documents.
        max_bytes: longest input.
    """

    name: str
    enter: Callable[[bytes], None]
    expected: tuple[type[Exception], ...]
    max_bytes: int = 64 << 10


def _sniff(file: bytes) -> None:
    size = header_size(base64.b64encode(file).decode())
    assert size is None or min(size) > 0
    sniff_format(file)


def _image(file: bytes) -> None:
    """The decoder child's whole way; what a decoder raises becomes a refusal at its border."""
    found = sniff_format(file)
    payload = base64.b64encode(file)
    job = DecodeJob(
        payload_length=len(payload),
        declared_mime=MIME_BY_FORMAT[found],
        preparation=Preparation(),
        max_pixels=MAX_FUZZED_PIXELS,
        max_data_bytes=MAX_STORED_BYTES,
        cpu_limit_s=5.0,
    )
    answer = answer_job(job, payload)
    if isinstance(answer, Refusal):
        assert answer.code in _CODES
        return
    _check_decoded(answer, header_size(payload.decode()))


def _check_decoded(image: DecodedImage, size: Size | None) -> None:
    assert 0 < image.width * image.height <= MAX_PIXELS
    assert image.source_pixels <= MAX_FUZZED_PIXELS
    if image.encoding == "rgb8":
        assert len(image.data) == 3 * image.width * image.height
    # what admission has counted is what is decoded; but a GIF's frame may reach beyond its screen,
    # which Pillow then enlarges
    is_wider = image.facts.format == "GIF" and size and size.pixels < image.source_pixels
    assert size is None or size.pixels == image.source_pixels or is_wider, (size, image.facts)


def _medical(data: bytes) -> None:
    """The last byte chooses."""
    file, chosen = data[:-1], data[-1:]
    choice = _CHOICES[chosen[0] % len(_CHOICES)] if chosen else AS_IT_IS
    if _is_read_apart(file):
        return
    policy = Policy(MAX_FUZZED_PIXELS, burned_in="mask", is_heuristic=True)
    image, facts = read_medical(file, choice, policy)
    assert image.mode in ("L", "RGB")
    assert image.size == (facts.width, facts.height)
    size = header_size(base64.b64encode(file).decode())
    if facts.format == "DICOM" and size is not None:  # one side, where pixels became square
        assert image.width == size.width or image.height == size.height, (size, facts)


def _is_read_apart(file: bytes) -> bool:
    """Whether a process of its own reads the file (lossless JPEG), half a second each time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return is_dicom(file) and may_abort(read_header(file))
        except Exception:  # noqa: BLE001 - `read_medical` is asked next
            return False


def _json(body: bytes) -> None:
    """Our value is the standard library's; two signs stand for a long data URL."""
    body = body.replace(b"@@", _LONG_URL)
    value = strict_json.parse(body)
    assert value == json.loads(body)
    again = json.dumps(value, ensure_ascii=False).encode()
    assert strict_json.parse(again) == value


def _data_url(data: bytes) -> None:
    url = data.decode("utf-8", "surrogateescape")
    parsed = parse_data_url(url)
    assert parsed.decoded_bytes >= 1
    header_size(url, parsed.payload_start)


def _url(data: bytes) -> None:
    """What passes names an allowed host for the standard library, too."""
    text = data.decode("latin-1")
    check_url(text, _RULES, "url")
    parts = urlsplit(text)
    host = (parts.hostname or "").lower()
    is_host = host == _HOST and parts.port in (None, 443)
    is_below = host.endswith(f".{_DOMAIN}") and parts.port == 8443
    assert parts.scheme.lower() == "https"
    assert is_host or is_below
    assert parts.username is None


def _safetensors(data: bytes) -> None:
    """A header that is taken describes each byte of the file, once."""
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(data)
        file.flush()
        tensors = read_tensors(Path(file.name))
    (length,) = struct.unpack_from("<Q", data)
    ends = [(info.start, info.start + info.num_bytes) for info in tensors.values()]
    assert all(8 + length <= start <= end <= len(data) for start, end in ends)
    assert sum(end - start for start, end in ends) == len(data) - 8 - length


_REFUSALS = (RequestError, TooLargeError)
TARGETS = {
    target.name: target
    for target in (
        Target("sniff", _sniff, _REFUSALS),
        Target("image", _image, _REFUSALS),
        Target("dicom", _medical, (MedicalImageError,), 128 << 10),
        Target("nifti", _medical, (MedicalImageError,)),
        Target("json", _json, _REFUSALS),
        Target("data-url", _data_url, _REFUSALS),
        Target("url", _url, _REFUSALS),
        Target("safetensors", _safetensors, (CheckpointError,)),
    )
}
