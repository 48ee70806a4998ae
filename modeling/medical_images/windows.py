"""Windows: which values become black, which white, and what lies between.

A window is a centre and a width in the values that the modality's rescaling gives (Hounsfield
units in CT). The named ones are for CT only: other modalities have no common scale. What does
*not* live here: applying one (`grey.py`).
"""

from dataclasses import dataclass

LARGEST_VALUE = 1e7
"""Above what any modality's values reach (32-bit RT dose, scaled)."""


@dataclass(frozen=True, slots=True)
class Window:
    """Centre and width, the way DICOM states them (PS3.3, C.11.2.1.2)."""

    center: float
    width: float


# Typical values of CT windows, in Hounsfield units: Radiopaedia, "Windowing (CT)"
# (doi:10.53347/rID-52108), the middle of the range where it gives one.
CT_WINDOWS: dict[str, Window] = {
    "abdomen": Window(50, 400),
    "bone": Window(400, 1800),
    "brain": Window(40, 80),
    "liver": Window(30, 150),
    "lung": Window(-600, 1500),
    "mediastinum": Window(50, 350),
    "soft-tissue": Window(40, 375),
    "spine": Window(50, 250),
    "stroke": Window(40, 40),
    "subdural": Window(75, 215),
    "temporal-bone": Window(600, 2800),
}
