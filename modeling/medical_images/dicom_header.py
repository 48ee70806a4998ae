"""What a DICOM file says of its pixels: the closed set of elements that is read, and nothing else.

De-identification by leaving behind: names, dates, identifiers, private elements, overlays and
comments are not in the set, so they are never read. What does *not* live here: walking the file
(`dicom_elements.py`) and its pixels (`dicom.py`).
"""

import io
from dataclasses import dataclass
from typing import Any, cast

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag

from modeling.medical_images.dicom_elements import Elements, read_elements
from modeling.medical_images.errors import MedicalImageError

SHARED_GROUPS, FRAME_GROUPS = 0x52009229, 0x52009230
ULTRASOUND_REGIONS = 0x00186011

WANTED = frozenset((
    0x00080016,  # SOP Class UID
    0x00080060,  # Modality
    0x00181164,  # Imager Pixel Spacing
    0x00182010,  # Nominal Scanned Pixel Spacing
    ULTRASOUND_REGIONS,
    0x00280002,  # Samples per Pixel
    0x00280004,  # Photometric Interpretation
    0x00280006,  # Planar Configuration
    0x00280008,  # Number of Frames
    0x00280010,  # Rows
    0x00280011,  # Columns
    0x00280030,  # Pixel Spacing
    0x00280034,  # Pixel Aspect Ratio
    0x00280100,  # Bits Allocated
    0x00280101,  # Bits Stored
    0x00280102,  # High Bit
    0x00280103,  # Pixel Representation
    0x00280120,  # Pixel Padding Value
    0x00280121,  # Pixel Padding Range Limit
    0x00280301,  # Burned In Annotation
    0x00281050,  # Window Center
    0x00281051,  # Window Width
    0x00281052,  # Rescale Intercept
    0x00281053,  # Rescale Slope
    0x00281054,  # Rescale Type
    0x00281056,  # VOI LUT Function
    0x00281101, 0x00281102, 0x00281103,  # palette: descriptors,
    0x00281201, 0x00281202, 0x00281203,  # data,
    0x00281221, 0x00281222, 0x00281223,  # segmented data
    0x00283000,  # Modality LUT Sequence
    0x00283010,  # VOI LUT Sequence
    0x20500020,  # Presentation LUT Shape
    SHARED_GROUPS,
    FRAME_GROUPS,
))  # fmt: skip

# PS3.3, C.7.3.1.1.1, those with images
MODALITIES = frozenset((
    "AR", "BMD", "CR", "CT", "DG", "DX", "ECG", "EPS", "ES", "FID", "FS", "GM", "HC", "IO", "IVOCT",
    "IVUS", "KER", "LEN", "LS", "MG", "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPR", "OPT", "OPV",
    "OSS", "OT", "PA", "POS", "PT", "PX", "RF", "RG", "RTDOSE", "RTIMAGE", "SC", "SEG", "SM", "TG",
    "US", "VA", "XA", "XC",
))  # fmt: skip
PHOTOMETRIC = frozenset((
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422",
    "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT",
))  # fmt: skip
MAX_FRAMES = 100_000
MAX_SIDE_PX = 65_535


@dataclass(frozen=True, slots=True)
class DicomHeader:
    """The checked header.

    Args:
        data: the wanted elements only.
    """

    elements: Elements
    data: Dataset
    rows: int
    columns: int
    frames: int
    samples: int
    bits_allocated: int
    bits_stored: int
    photometric: str
    modality: str
    burned_in: str

    @property
    def is_secondary_capture(self) -> bool:
        """Whether the image was made from a screen, a film or a document (PS3.4, B.5)."""
        return _text(self.data, "SOPClassUID").startswith("1.2.840.10008.5.1.4.1.1.7")


def read_header(file: bytes) -> DicomHeader:
    """Return the header of a DICOM image; raises MedicalImageError."""
    elements = read_elements(file, WANTED)
    if elements.pixels is None:
        raise _invalid("the file holds no image: it has no pixel data")
    data = _parse(elements)
    samples = _number(data, "SamplesPerPixel", 1, 3)
    allocated = _number(data, "BitsAllocated", 1, 64)
    photometric = _text(data, "PhotometricInterpretation")
    if samples == 2 or allocated not in (1, 8, 16, 32) or photometric not in PHOTOMETRIC:
        raise _invalid(
            "this combination of samples, bits and photometric interpretation is unknown"
        )
    modality = _text(data, "Modality")
    burned_in = _burned_in(data)
    return DicomHeader(
        elements=elements,
        data=data,
        rows=_number(data, "Rows", 1, MAX_SIDE_PX),
        columns=_number(data, "Columns", 1, MAX_SIDE_PX),
        frames=_number(data, "NumberOfFrames", 1, MAX_FRAMES, default=1),
        samples=samples,
        bits_allocated=allocated,
        bits_stored=_number(data, "BitsStored", 1, allocated, default=allocated),
        photometric=photometric,
        modality=modality if modality in MODALITIES else ("other" if modality else ""),
        burned_in=burned_in,
    )


def frame_values(header: DicomHeader, frame: int) -> Dataset:
    """Return what maps the values of one frame: its own functional groups, shared ones, the top."""
    merged = Dataset()
    groups: list[Dataset] = []
    shared, per_frame = items_of(header.data, SHARED_GROUPS), items_of(header.data, FRAME_GROUPS)
    groups.extend(shared[:1])
    groups.extend(per_frame[frame - 1 : frame])
    sources = [header.data]
    for group in groups:
        for keyword in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            sources.extend(items_of(group, Tag(keyword))[:1])
    for source in sources:
        for keyword in _OF_VALUES:
            if keyword in source and source[keyword].value is not None:
                merged[keyword] = source[keyword]
    merged.set_original_encoding(
        is_implicit_vr=not header.elements.is_explicit,
        is_little_endian=header.elements.is_little_endian,
    )  # a table of 16-bit words is read by it
    return merged


_OF_VALUES = (
    "WindowCenter", "WindowWidth", "RescaleIntercept", "RescaleSlope", "RescaleType",
    "VOILUTFunction", "ModalityLUTSequence", "VOILUTSequence", "BitsStored", "BitsAllocated",
    "PixelRepresentation", "PhotometricInterpretation",
)  # fmt: skip


def ultrasound_boxes(header: DicomHeader) -> list[tuple[int, int, int, int]]:
    """Return left, top, right, bottom of the regions that hold ultrasound (PS3.3, C.8.5.5)."""
    boxes: list[tuple[int, int, int, int]] = []
    for item in items_of(header.data, ULTRASOUND_REGIONS)[:64]:
        names = ("RegionLocationMinX0", "RegionLocationMinY0")
        ends = ("RegionLocationMaxX1", "RegionLocationMaxY1")
        left, top, right, bottom = (_number(item, name, 0, 2**31) for name in (*names, *ends))
        boxes.append((left, top, right + 1, bottom + 1))
    return boxes


def _parse(elements: Elements) -> Dataset:
    content = b"".join(elements.kept[tag] for tag in sorted(elements.kept))
    data = read_dataset(
        io.BytesIO(content), not elements.is_explicit, elements.is_little_endian, len(content)
    )
    data.set_original_encoding(
        is_implicit_vr=not elements.is_explicit, is_little_endian=elements.is_little_endian
    )
    return data


def items_of(data: Dataset, tag: int) -> list[Dataset]:
    """Return the items of a sequence; none where there is none."""
    found: Any = data[tag].value if tag in data else None  # pydicom converts when it is asked
    return list(cast("list[Dataset]", found)) if found else []


def _number(
    data: Dataset, keyword: str, least: int, most: int, *, default: int | None = None
) -> int:
    value: Any = data.get(keyword)
    if value is None or value == "":
        value = default
    try:
        number = int(value)  # pyright: ignore[reportArgumentType] - None is a TypeError
    except (TypeError, ValueError):
        raise _invalid(f"{keyword} is missing or no number") from None
    if not least <= number <= most:
        raise _invalid(f"{keyword} is {number}; {least} to {most} are taken")
    return number


def _text(data: Dataset, keyword: str) -> str:
    value: Any = data.get(keyword)
    return value if isinstance(value, str) else ""


def _burned_in(data: Dataset) -> str:
    """Return YES where any of the values says so, NO where all do, else nothing.

    One value is allowed; files with several, or of another type, are read for their worst.
    """
    value: Any = data.get("BurnedInAnnotation")
    values: list[Any] = list(value) if isinstance(value, MultiValue) else [value]
    texts = (v.decode("ascii", "replace") if isinstance(v, bytes) else str(v) for v in values)
    said = {each.strip(" \0").upper() for text in texts for each in text.split("\\")}
    return "YES" if "YES" in said else "NO" if said == {"NO"} else ""


def _invalid(message: str) -> MedicalImageError:
    return MedicalImageError("invalid_dicom", message)
