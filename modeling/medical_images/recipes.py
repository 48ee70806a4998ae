"""Named ways from a file's values to the three channels that a model takes, and their fingerprints.

A fingerprint names everything that decides the pixels but the file and the frame: the recipe, the
window, the model's own preprocessing, and the libraries. What does *not* live here: carrying a
recipe out (`reading.py`).
"""

import dataclasses
import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version

from modeling.image_processing import PREPROCESSING_VERSION
from modeling.medical_images.choice import Choice
from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.windows import CT_WINDOWS, LARGEST_VALUE, Window

_LIBRARIES = (
    "nibabel", "numpy", "pillow", "pydicom", "pyjpegls", "pylibjpeg-openjpeg", "pylibjpeg-rle",
    "python-gdcm",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way.

    Args:
        version: raised whenever its pixels change.
        channels: CT windows of the red, the green and the blue channel; none: all three are one.
        is_own_window: the file's own VOI LUT or window counts, where it has one.
        is_grey: colours become their luminance.
    """

    name: str
    version: int = 1
    channels: tuple[Window, ...] = ()
    is_own_window: bool = True
    is_grey: bool = False


def _clips(*ranges: tuple[float, float]) -> tuple[Window, ...]:
    return tuple(Window((low + high) / 2, high - low) for low, high in ranges)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("default"),
        Recipe("grey", is_grey=True),
        Recipe("full-range", is_own_window=False),
        # As MedGemma 1.5 was trained: clips of -1024..1024 (wide), -135..215 (soft tissue) and
        # 0..80 HU (brain) for red, green and blue (Google-Health/medgemma at d89262cd,
        # notebooks/high_dimensional_ct_hugging_face.ipynb, "Define windowing for CT images")
        Recipe("ct-three-windows", channels=_clips((-1024, 1024), (-135, 215), (0, 80))),
    )
}
"""`default`: the file's own VOI LUT or window, else its range; colours stay.
`grey`: the same, and colours become their luminance. `full-range`: always the range of the frame's
values (percentiles 0.5 to 99.5). `ct-three-windows`: CT only, a wide, a soft-tissue and a brain
window as red, green and blue."""


def check_choice(choice: Choice) -> None:
    """Raise MedicalImageError for a choice that fits no file at all."""
    recipe = RECIPES.get(choice.recipe)
    if recipe is None:
        raise _wrong("recipe", f"there is no such recipe; there are {', '.join(RECIPES)}")
    if recipe.channels and choice.window is not None:
        raise _wrong("window", f"the recipe {recipe.name} has windows of its own; leave it out")
    match choice.window:
        case str(name) if name not in CT_WINDOWS:
            raise _wrong("window", f"there is no such window; there are {', '.join(CT_WINDOWS)}")
        case Window(center, width) if not (
            abs(center) <= LARGEST_VALUE and 1 <= width <= LARGEST_VALUE
        ):
            raise _wrong("window", f"center and width reach to {LARGEST_VALUE:.0f}, width from 1")
        case _:
            pass


def fingerprint(choice: Choice, model_input: str) -> str:
    """Return `NAME@VERSION/HASH` of a choice, its frame and slice left out.

    Args:
        model_input: what the model's own preprocessing is, in any stable words.
    """
    return _fingerprint(dataclasses.replace(choice, frame=None, slice=None), model_input)


@lru_cache(maxsize=256)
def _fingerprint(choice: Choice, model_input: str) -> str:
    recipe = RECIPES[choice.recipe]
    window = choice.window if choice.window is None or isinstance(choice.window, str) else (
        asdict(choice.window)
    )  # fmt: skip
    document = {
        "recipe": asdict(recipe),
        "window": window,
        "window_values": asdict(CT_WINDOWS[window]) if isinstance(window, str) else None,
        "plane": choice.plane,
        "pixels": "square",
        "model_input": model_input,
        "preprocessing_version": PREPROCESSING_VERSION,
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    text = json.dumps(document, sort_keys=True)
    return f"{recipe.name}@{recipe.version}/{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _wrong(field: str, message: str) -> MedicalImageError:
    return MedicalImageError("invalid_value", message, field=field)
