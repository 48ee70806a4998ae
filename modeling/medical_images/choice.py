"""What a client may choose of a medical image: which frame or slice, and how it becomes 8 bits.

What does *not* live here: carrying it out (`reading.py`), and its words on the wire
(`services/gateway/openai_schemas.py`).
"""

from dataclasses import dataclass
from typing import Literal

from modeling.medical_images.windows import Window

Plane = Literal["axial", "coronal", "sagittal"]
BurnedIn = Literal["block", "mask", "allow"]
"""What is done with an image that holds, or is suspected to hold, text of a patient."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Choices for one image; None: what the recipe and the file say.

    Args:
        recipe: one of `recipes.RECIPES`.
        window: a name of `windows.CT_WINDOWS`, or values.
        frame: of DICOM, from 1; of a NIfTI series, its volume.
        slice: of a NIfTI volume, from 1, along `plane`'s axis.
    """

    recipe: str = "default"
    window: str | Window | None = None
    frame: int | None = None
    slice: int | None = None
    plane: Plane | None = None


AS_IT_IS = Choice()


@dataclass(frozen=True, slots=True)
class Facts:
    """What may be told of a file beside its pixels: a closed set, and no free text.

    Args:
        format: JPEG, PNG, ..., DICOM or NIFTI.
        width: of the picture, whose pixels are square.
        modality: a defined term of DICOM, `other`, or empty where there is none.
        frames: frames, volumes of a series; 1 where only the first is ever read.
        slices: along the chosen plane; 0: not a volume.
        bits: stored ones of a sample; 0: not told.
        window: how values became grey: `lung`, `voi-lut`, `range`, ...; empty: in no way.
        burned_in: what the file says of text within the pixels: YES, NO or nothing.
        masked: whether a part of the pixels was made black.
    """

    format: str
    width: int
    height: int
    modality: str = ""
    frame: int = 1
    frames: int = 1
    slice: int = 0
    slices: int = 0
    bits: int = 0
    photometric: str = ""
    transfer_syntax: str = ""
    window: str = ""
    center: float | None = None
    window_width: float | None = None
    burned_in: str = ""
    masked: bool = False
