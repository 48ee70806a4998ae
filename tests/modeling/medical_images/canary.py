"""A DICOM file that names a patient wherever it can, to look for these words afterwards."""

from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from tests.modeling.medical_images.dicom_files import dicom

CANARY = "Canary-Dicom-4721"
ESCAPED = "\x1b$B;3ED\x1b(B^Canary-Dicom-4721\r\nX-Evil: 1"
TEXT_TAGS = (
    "PatientID", "PatientComments", "AccessionNumber", "InstitutionName", "StudyDescription",
    "SeriesDescription", "ReferringPhysicianName", "OperatorsName", "StationName", "ImageComments",
    "ProtocolName", "DeviceSerialNumber", "OtherPatientNames", "StudyID", "RescaleType",
    "WindowCenterWidthExplanation", "ManufacturerModelName", "DerivationDescription",
)  # fmt: skip


def canary_file(**tags: Any) -> bytes:
    """A file that says the canary wherever it can."""
    item = Dataset()
    item.PatientID = CANARY
    tags = dict.fromkeys(TEXT_TAGS, CANARY[:16]) | tags
    pixels = np.random.default_rng(7).integers(0, 255, (64, 64), dtype=np.uint8)
    file = dicom(pixels, ReferencedPatientSequence=Sequence([item]), PatientName=ESCAPED, **tags)
    private = b"\x09\0\x10\0LO" + len(CANARY + " ").to_bytes(2, "little") + (CANARY + " ").encode()
    meta_end = file.index(b"\x08\0")
    file = file[:meta_end] + file[meta_end:].replace(
        b"\x10\0\x10\0PN", private + b"\x10\0\x10\0PN", 1
    )
    assert file.count(b"Canary-Dicom") >= len(TEXT_TAGS)
    return file
