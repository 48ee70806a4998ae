"""One frame of a DICOM file as 8-bit pixels.

The order is that of PS3.3 and PS3.4, N.2: decompress, photometric interpretation, modality LUT or
rescaling, VOI LUT or window, inversion of MONOCHROME1. Overlays are left behind, also those in
unused bits of the pixels. What does *not* live here: which elements are read (`dicom_header.py`),
burned-in text (`deidentify.py`).
"""

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi
from pydicom.uid import UID

from modeling.medical_images.codestream import (
    codestream_size,
    jpeg_precision,
    lacks_tiles,
    without_boxes,
)
from modeling.medical_images.dicom_elements import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
)
from modeling.medical_images.dicom_header import DicomHeader, frame_values
from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.grey import (
    Scale,
    Values,
    ValueTable,
    linear,
    linear_exact,
    sigmoid,
    tabulate,
)
from modeling.medical_images.jpeg12 import JPEG_EXTENDED, decode_jpeg12
from modeling.medical_images.windows import Window

NATIVE = frozenset((IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED))
COMPRESSED = {
    "1.2.840.10008.1.2.4.50": "JPEG Baseline",
    "1.2.840.10008.1.2.4.51": "JPEG Extended",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless SV1",
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Near-lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.201": "High-Throughput JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.202": "High-Throughput JPEG 2000 Lossless RPCL",
    "1.2.840.10008.1.2.4.203": "High-Throughput JPEG 2000",
    "1.2.840.10008.1.2.5": "RLE",
}
_DECODERS = {"50": "pillow", "51": "pillow", "80": "pyjpegls", "81": "pyjpegls"}
_DECODERS |= {"57": "gdcm", "70": "gdcm"} | dict.fromkeys(("90", "91"), "pylibjpeg")
"""By the end of a syntax's UID. pydicom would try all that it has, first GDCM, which damaged data
make abort the process (found by fuzzing): it stands where nothing else reads a syntax."""
_JPEG_LS = frozenset(("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"))
_END = b"\xff\xd9"
MAX_COMPRESSED_SAMPLES = 40_000_000
"""Width x height x colours of a compressed frame: OpenJPEG holds each in 32 bits, beside ours."""

_VOI_FUNCTIONS = {"LINEAR": linear, "LINEAR_EXACT": linear_exact, "SIGMOID": sigmoid}


def syntax_name(header: DicomHeader) -> str:
    """Return the name of a file's transfer syntax; raises MedicalImageError for one not taken."""
    syntax = header.elements.transfer_syntax
    if syntax in NATIVE:
        return {EXPLICIT_BIG: "Big Endian", DEFLATED: "Deflated"}.get(syntax, "Little Endian")
    if syntax not in COMPRESSED:
        raise MedicalImageError(
            "unsupported_transfer_syntax",
            "the transfer syntax of the file is not supported; send it uncompressed, or as JPEG,"
            " JPEG-LS, JPEG 2000 or RLE",
        )
    if _is_jpeg12(header) and (
        header.samples != 1 or header.bits_allocated != 16 or header.data.get("PixelRepresentation")
    ):
        raise MedicalImageError(
            "unsupported_transfer_syntax",
            "JPEG Extended of more than 8 bits is taken of grey values without a sign only; send it"
            " as JPEG Lossless or uncompressed",
        )
    return COMPRESSED[syntax]


def may_abort(header: DicomHeader) -> bool:
    """Whether damaged pixel data may end the process that decodes them."""
    return _is_jpeg12(header) or _decoder_of(header.elements.transfer_syntax) == "gdcm"


def decode_frame(header: DicomHeader, frame: int) -> NDArray[Any]:
    """Return the stored values of a frame, from 1: H x W, or H x W x 3 in RGB.

    Where `may_abort`, the process may end instead (`frame_process.py`).

    Raises:
        MedicalImageError: its transfer syntax is not taken, or its pixels are damaged.
    """
    syntax_name(header)
    data = Dataset()
    for keyword in _OF_PIXELS:
        if keyword in header.data:
            data[keyword] = header.data[keyword]
    pixels = header.elements.pixels or b""
    index = frame - 1
    if header.elements.is_encapsulated:
        one = _compressed_frame(header, pixels, index)
        if _is_jpeg12(header):
            return _decoded_jpeg12(header, one)
        pixels, index = encapsulate([one], has_bot=False), 0
        data.NumberOfFrames = 1
    elif header.elements.transfer_syntax in COMPRESSED:
        raise _damaged("the pixel data are declared as compressed but are not")
    data.add_new(0x7FE00010, header.elements.pixels_vr, pixels)
    data["PixelData"].is_undefined_length = header.elements.is_encapsulated
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = UID(header.elements.transfer_syntax)
    data.set_original_encoding(
        is_implicit_vr=not header.elements.is_explicit,
        is_little_endian=header.elements.is_little_endian,
    )
    try:
        decoder = get_decoder(header.elements.transfer_syntax)
        stored, _ = cast("Any", decoder).as_array(
            data, index=index, decoding_plugin=_decoder_of(header.elements.transfer_syntax)
        )
    except BaseException as error:
        # each plugin has errors of its own, whose texts may hold values of the file; those of
        # plugins in Rust (run lengths) are no `Exception`
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise _damaged("the pixel data are damaged, truncated or not what they claim") from error
    return stored if header.elements.is_encapsulated else _without_spare_bits(header, stored)


def _decoder_of(syntax: str) -> str:
    """Return the name of pydicom's plugin; empty: the only one there is."""
    return _DECODERS.get(syntax.removeprefix("1.2.840.10008.1.2.4."), "")


_OF_PIXELS = (
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows",
    "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip


def colours(header: DicomHeader, stored: NDArray[Any]) -> NDArray[np.uint8] | None:
    """Return H x W x 3 of a colour image in 8 bits; None: it is grey."""
    if header.photometric == "PALETTE COLOR":
        try:
            stored = apply_color_lut(stored, header.data)
        except Exception as error:
            raise _damaged("the palette is damaged or incomplete") from error
        bits = stored.dtype.itemsize * 8
    elif header.samples == 3:
        bits = header.bits_stored
    else:
        return None
    return (stored >> max(bits - 8, 0)).astype(np.uint8)


def value_table(header: DicomHeader, frame: int, stored: NDArray[Any]) -> ValueTable:
    """Return the values of a grey frame after the modality's rescaling."""
    data = frame_values(header, frame)

    def rescale(values: Values) -> Values:
        if "ModalityLUTSequence" in data:
            return apply_modality_lut(values.astype(np.int64), data).astype(np.float64)
        return apply_modality_lut(values, data).astype(np.float64)

    try:
        return tabulate(stored, rescale, _padding(header))
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise _damaged("the modality's rescaling is damaged") from error


def own_scale(header: DicomHeader, frame: int) -> tuple[str, Scale, Window | None] | None:
    """Return the file's own VOI LUT or first window, with its name; None: it has none."""
    data = frame_values(header, frame)
    try:
        if data.get("VOILUTSequence"):
            return "voi-lut", _lut_scale(data), None
        center, width = (_first(data.get(name)) for name in ("WindowCenter", "WindowWidth"))
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise _damaged("the VOI LUT or window is damaged") from error
    function = str(data.get("VOILUTFunction") or "LINEAR").upper()
    if center is None or width is None or function not in _VOI_FUNCTIONS:
        return None
    if width < 1 and (function == "LINEAR" or width <= 0):
        return None  # PS3.3, C.11.2.1.2.1 forbids it; files that have it mean "no window"
    window, apply = Window(center, width), _VOI_FUNCTIONS[function]
    return "voi-window", lambda values: apply(values, window), window


def is_inverted(header: DicomHeader) -> bool:
    """Whether the least value is white."""
    shape = str(header.data.get("PresentationLUTShape") or "")
    return header.photometric == "MONOCHROME1" or shape.upper() == "INVERSE"


def has_hounsfield_units(header: DicomHeader, frame: int) -> bool:
    """Whether values are those of CT, so that named windows mean something."""
    data = frame_values(header, frame)
    kind = str(data.get("RescaleType") or "HU").upper()
    return header.modality == "CT" and kind == "HU" and "RescaleSlope" in data


def _compressed_frame(header: DicomHeader, pixels: bytes, index: int) -> bytes:
    """Return one frame's stream, having compared the size that it states with the header's."""
    try:
        frame = without_boxes(get_frame(pixels, index, number_of_frames=header.frames))
    except Exception as error:
        raise _damaged("the compressed frames are damaged or fewer than stated") from error
    if header.rows * header.columns * header.samples > MAX_COMPRESSED_SAMPLES:
        raise MedicalImageError(
            "image_too_large",
            f"a compressed frame has more than {MAX_COMPRESSED_SAMPLES} samples",
        )
    if header.elements.transfer_syntax in _JPEG_LS and not frame.rstrip(b"\0").endswith(_END):
        raise _damaged("the compressed frame is truncated")  # CharLS looks for its end for 5 s
    found = codestream_size(frame)
    is_rle = COMPRESSED.get(header.elements.transfer_syntax) == "RLE"
    if not is_rle and found != (header.columns, header.rows, header.samples):
        raise _damaged("the compressed frame has another size than the header says")
    if lacks_tiles(frame):
        raise _damaged("the compressed frame has fewer tiles than it states")
    return frame


def _is_jpeg12(header: DicomHeader) -> bool:
    return header.elements.transfer_syntax == JPEG_EXTENDED and header.bits_stored > 8


def _decoded_jpeg12(header: DicomHeader, frame: bytes) -> NDArray[Any]:
    if jpeg_precision(frame) != 12:
        raise _damaged("the compressed frame has other bits than the header says")
    try:
        return decode_jpeg12(frame, header.columns, header.rows)
    except ValueError as error:
        raise _damaged("the compressed frame is damaged or truncated") from error


def _without_spare_bits(header: DicomHeader, stored: NDArray[Any]) -> NDArray[Any]:
    """Cut bits that belong to no sample: older files keep overlays in them (PS3.5, 8.1.1)."""
    spare = header.bits_allocated - header.bits_stored
    if header.bits_allocated not in (8, 16, 32) or spare == 0 or stored.dtype.kind not in "iu":
        return stored
    high_bit: Any = header.data.get("HighBit")
    up = header.bits_allocated - 1 - (high_bit if isinstance(high_bit, int) else 0)
    if not 0 <= up <= spare:
        up = spare
    return (stored << up) >> spare  # signed ones keep their sign


def _lut_scale(data: Dataset) -> Scale:
    descriptor: Any = data["VOILUTSequence"].value[0]["LUTDescriptor"].value
    top = float(2 ** int(descriptor[2]) - 1)

    def scale(values: Values) -> Values:
        clipped = np.clip(np.round(values), -(2**31), 2**31 - 1).astype(np.int64)
        return apply_voi(clipped, data).astype(np.float64) / top

    return scale


def _padding(header: DicomHeader) -> list[tuple[float, float]]:
    first: Any = header.data.get("PixelPaddingValue")
    last: Any = header.data.get("PixelPaddingRangeLimit")
    if not isinstance(first, int):
        return []
    low, high = sorted((first, last if isinstance(last, int) else first))
    return [(float(low), float(high))]


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    number = float(value if isinstance(value, (str, int, float)) else value[0])
    return number if np.isfinite(number) else None


def _damaged(message: str) -> MedicalImageError:
    return MedicalImageError("invalid_dicom", message)
