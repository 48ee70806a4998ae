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
# (doi:10.53347/rID-52108; https://radiopaedia.org/articles/windowing-ct). Where it gives a range,
# the middle: subdural W 130-300, L 50-100, and soft tissue of head and neck W 350-400, L 20-60. Of
# its two for stroke (W 8, L 32 and W 40, L 40), the wider one; `bone` is its bone of the spine,
# `spine` its soft tissue there, `abdomen` its soft tissue there.
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
