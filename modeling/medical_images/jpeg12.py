"""Lossy JPEG of 12 bits (ITU-T T.81, process 4), by GDCM.

pydicom knows no decoder for it beside one under the GPL, and says that GDCM has none; GDCM has had
one as long as it is built with its own copies of libjpeg, and gives pydicom's own test file the
values that pydicom's tests expect of it. What does *not* live here: other syntaxes (`dicom.py`).
"""

from typing import Any, cast

import gdcm  # pyright: ignore[reportMissingTypeStubs] - it has none
import numpy as np
from numpy.typing import NDArray

JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_BITS = 12
_gdcm = cast("Any", gdcm)


def decode_jpeg12(frame: bytes, width: int, height: int) -> NDArray[np.uint16]:
    """Return H x W grey values; raises ValueError where the stream is damaged.

    Args:
        frame: a stream of one component, whose own size was compared before.
    """
    fragment = _gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = _gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = _gdcm.DataElement(_gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = _gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((width, height, 1))
    image.SetDataElement(element)
    grey = _gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(_gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(_gdcm.TransferSyntax(_gdcm.TransferSyntax.GetTSType(JPEG_EXTENDED)))
    # 12, not 16, bits allocated: else it tries another decoder first, and says so on stderr
    # (https://github.com/tfmoraes/python-gdcm/issues/35)
    image.SetPixelFormat(_gdcm.PixelFormat(1, _BITS, _BITS, _BITS - 1, 0))
    buffer: str | None = image.GetBuffer()
    # GDCM gives its bytes as a text
    content = b"" if buffer is None else buffer.encode("utf-8", "surrogateescape")
    if len(content) != width * height * 2:
        raise ValueError("the stream is damaged")
    return np.frombuffer(content, "<u2").reshape(height, width)
