"""What is true of a drawn image: spots with count, size and place, and what they are drawn on.

Two worlds share the facts about spots. In `phantoms` they are the lesions of a scan; in `shapes`,
the everyday world of a general-domain base, they are spots on a picture. **Left and right are the
picture's, as the viewer sees them**, not the patient's.

There are at most two spots, none overlaps or touches another, each lies in one half for both of
side and location, and small and large are far apart: what is asked can be seen on 64 pixels in
patches of 8. What does *not* live here: drawing (`drawing_phantoms.py`, `drawing_shapes.py`) and
words (`topics.py`, `captions.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from datagen.phantoms.canvas import MIDDLE_PX, SIZE_PX

Side = Literal["left", "right", "both"]
Location = Literal["upper", "lower"]
Size = Literal["small", "large"]

COUNTS = ("zero", "one", "two")
SIDES: tuple[Side, ...] = ("left", "right", "both")
LOCATIONS: tuple[Location, ...] = ("upper", "lower")
SIZES: tuple[Size, ...] = ("small", "large")

ORGANS: Mapping[str, tuple[str, ...]] = {
    "CT": ("chest", "abdomen", "brain"),
    "radiograph": ("chest", "leg"),
    "MRI": ("brain", "spine"),
    "histology": ("colon", "lymph node", "skin"),
    "photograph": ("kidney", "liver"),
}
"""By modality; chest and brain are in two. A photograph is what pathologists call gross."""
MODALITIES = tuple(ORGANS)

GREYS = ("black", "grey", "white")
COLOURS = ("red", "green", "blue", "yellow", "purple", "pink", "brown", *GREYS)
BACKGROUNDS = ("plain", "shaded", "striped", "speckled", "cloudy", "noisy")
SHAPES = ("disc", "oval", "box", "ring", "pair")

RADIUS_PX: Mapping[Size, tuple[float, float]] = {"small": (2.6, 3.2), "large": (4.6, 5.4)}
_GAP_PX = 4.0  # at least, between the edges of two spots
_SPACING_PX = 13.0  # at least, between the centres of two: more than a patch and a half
_FROM_MIDDLE_PX = 1.0  # from a spot's edge to the lines that divide sides and locations
_FROM_BORDER_PX = 2.0  # from a spot's edge to the image's
_TRIES = 64  # places that are drawn at once


@dataclass(frozen=True, slots=True)
class Room:
    """The ellipse around the middle in which spots lie; a very large one is the whole image."""

    half_width: float = 1e3
    half_height: float = 1e3


@dataclass(frozen=True, slots=True)
class Spots:
    """Lesions, or spots of a picture; all of one size, all in the upper or all in the lower half.

    Args:
        centres_px: x to the right, y downwards, of each.
        side: with `location` and `size` None where there is no spot.
    """

    centres_px: tuple[tuple[float, float], ...] = ()
    radius_px: float = 0.0
    side: Side | None = None
    location: Location | None = None
    size: Size | None = None

    @property
    def count(self) -> str:
        """In words."""
        return COUNTS[len(self.centres_px)]

    @property
    def attributes(self) -> dict[str, str]:
        """What questions are about; without what does not apply."""
        known = {"present": "yes" if self.centres_px else "no", "count": self.count}
        if self.side and self.location and self.size:
            known |= {"side": self.side, "location": self.location, "size": self.size}
        return known


@dataclass(frozen=True, slots=True)
class Scan:
    """A phantom."""

    modality: str
    organ: str
    spots: Spots

    @property
    def attributes(self) -> dict[str, str]:
        """What questions are about; without what does not apply."""
        return {"modality": self.modality, "organ": self.organ, **self.spots.attributes}


@dataclass(frozen=True, slots=True)
class Picture:
    """An everyday picture.

    Args:
        shape: None: nothing but the background; then `shape_colour` is None, too.
        spot_colour: None where there is no spot.
    """

    background: str
    background_colour: str
    shape: str | None
    shape_colour: str | None
    spot_colour: str | None
    spots: Spots

    @property
    def attributes(self) -> dict[str, str]:
        """What questions are about; without what does not apply."""
        known = {
            "background": self.background,
            "background_colour": self.background_colour,
            "shape": self.shape,
            "shape_colour": self.shape_colour,
            "spot_colour": self.spot_colour,
        }
        stated = {name: value for name, value in known.items() if value is not None}
        return {**stated, **self.spots.attributes}


Facts = Scan | Picture


def draw_spots(rng: np.random.Generator, room: Room) -> Spots:
    """Draw how many spots there are and where; each count is as likely as the others.

    Of two spots half are on both sides; location and size are even.
    """
    count = int(rng.integers(3))
    if count == 0:
        return Spots()
    side = SIDES[int(rng.integers(2))]
    if count == 2 and rng.random() < 0.5:
        side = "both"
    location = LOCATIONS[int(rng.integers(2))]
    size = SIZES[int(rng.integers(2))]
    radius = float(rng.uniform(*RADIUS_PX[size]))
    while True:
        centres = _try_places(rng, radius, count, side=side, location=location, room=room)
        if centres is not None:
            return Spots(centres, radius, side, location, size)


def _try_places(
    rng: np.random.Generator,
    radius: float,
    count: int,
    *,
    side: Side,
    location: Location,
    room: Room,
) -> tuple[tuple[float, float], ...] | None:
    """Return the first of some random places that has room for all spots; None: none of them."""
    least, most = radius + _FROM_MIDDLE_PX, MIDDLE_PX - radius - _FROM_BORDER_PX
    offsets = rng.uniform(least, most, (_TRIES, count, 2))
    inside = (offsets[..., 0] / (room.half_width - radius)) ** 2
    inside += (offsets[..., 1] / (room.half_height - radius)) ** 2
    fits = (inside <= 1).all(axis=1)
    if side == "both":
        offsets[:, 0, 0] *= -1
    elif side == "left":
        offsets[..., 0] *= -1
    if location == "upper":
        offsets[..., 1] *= -1
    if count == 2:
        apart = np.hypot(*(offsets[:, 0] - offsets[:, 1]).T)
        fits &= apart >= max(2 * radius + _GAP_PX, _SPACING_PX)
    if not fits.any():
        return None
    chosen = offsets[int(fits.argmax())] + SIZE_PX / 2
    return tuple((round(float(x), 2), round(float(y), 2)) for x, y in chosen)
