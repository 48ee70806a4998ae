"""DICOM files of one's own choice, as bytes."""

import io
import zlib

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage


def dicom(pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **tags: object) -> bytes:
    """Return a grey or RGB file of these stored values; `tags` are DICOM keywords."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    meta.TransferSyntaxUID = UID(syntax)
    data = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    is_colour = pixels.shape[-1] == 3 and pixels.ndim >= 3
    frames = pixels.ndim - (3 if is_colour else 2)
    bits = pixels.dtype.itemsize * 8
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    data.Rows, data.Columns = pixels.shape[frames : frames + 2]
    data.SamplesPerPixel = 3 if is_colour else 1
    data.PhotometricInterpretation = "RGB" if is_colour else "MONOCHROME2"
    if is_colour:
        data.PlanarConfiguration = 0
    if frames:
        data.NumberOfFrames = pixels.shape[0]
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit = bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    data["PixelData"].VR = "OW" if bits > 8 else "OB"
    for keyword, value in tags.items():
        setattr(data, keyword, value)
    return written(data)


def written(data: Dataset) -> bytes:
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


def raw_file(data_set: bytes, syntax: bytes = b"1.2.840.10008.1.2.1\0") -> bytes:
    """Return a file whose data set is any bytes."""
    meta = b"\x02\0\x10\0UI" + len(syntax).to_bytes(2, "little") + syntax
    return bytes(128) + b"DICM" + meta + data_set


def deflated_bomb(num_bytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    element = b"\x09\0\x10\0UN\0\0" + num_bytes.to_bytes(4, "little")
    content = packer.compress(element) + packer.compress(bytes(num_bytes)) + packer.flush()
    return raw_file(content, b"1.2.840.10008.1.2.1.99")


def nested(depth: int) -> bytes:
    """Return a file of sequences of undefined length in one another, never closed."""
    undefined = b"\xff\xff\xff\xff"
    level = b"\x40\0\x75\x02SQ\0\0" + undefined + b"\xfe\xff\0\xe0" + undefined
    return raw_file(level * depth)


def ct(values: np.ndarray, **tags: object) -> bytes:
    """Return a CT slice; the values are Hounsfield units."""
    own = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": 0, **tags}
    return dicom(values.astype(np.int16), **own)
