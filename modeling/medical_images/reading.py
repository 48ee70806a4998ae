"""A medical file, a choice and a policy in; clean pixels and a closed set of facts out.

The one way for the gateway's decoder child, the data tools and the evaluation. What does *not* live
here: the model's own resizing (`modeling.image_recipe`), and limits of a process.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modeling.medical_images import deidentify, dicom, nifti
from modeling.medical_images.choice import AS_IT_IS, BurnedIn, Choice, Facts
from modeling.medical_images.dicom_header import DicomHeader, read_header
from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.frame_process import decode_apart
from modeling.medical_images.grey import Scale, ValueTable, linear, tabulate
from modeling.medical_images.recipes import RECIPES, Recipe, check_choice
from modeling.medical_images.signatures import is_dicom, is_nifti
from modeling.medical_images.square_pixels import made_square, pixel_aspect
from modeling.medical_images.windows import CT_WINDOWS, Window

MAX_PIXELS = 40_000_000

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Policy:
    """What is refused.

    Args:
        max_pixels: of a frame or slice, checked on the header.
        is_heuristic: images are also suspected by `deidentify.looks_burned_in`.
        may_die: this process is there for decoding, and somebody watches it: decoders that damaged
            data make abort run in it, and not in a process of their own.
    """

    max_pixels: int = MAX_PIXELS
    burned_in: BurnedIn = "block"
    is_heuristic: bool = False
    may_die: bool = False


@dataclass(frozen=True, slots=True)
class _Grey:
    """How values become 8 bits."""

    name: str
    scale: Scale
    window: Window | None = None


def is_medical(file: bytes) -> bool:
    """Whether bytes are DICOM or NIfTI."""
    return is_dicom(file) or is_nifti(file)


def read_medical(
    file: bytes, choice: Choice = AS_IT_IS, policy: Policy | None = None
) -> tuple[Image.Image, Facts]:
    """Return a frame or slice as a grey or RGB image of 8 bits; raises MedicalImageError."""
    check_choice(choice)
    policy = policy or Policy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of files that are read all the same
        read, code = (
            (_read_dicom, "invalid_dicom") if is_dicom(file) else (_read_nifti, "invalid_image")
        )
        try:
            return read(file, choice, policy)
        except (MedicalImageError, MemoryError):
            raise
        except Exception as error:
            # what a library makes of odd bytes; its words may hold values of the file
            message = "the file is damaged: a library that reads it gave up"
            raise MedicalImageError(code, message) from error


def _read_dicom(file: bytes, choice: Choice, policy: Policy) -> tuple[Image.Image, Facts]:
    header = read_header(file)
    if header.rows * header.columns > policy.max_pixels:
        raise MedicalImageError(
            "image_too_large",
            f"the image has more than the {policy.max_pixels} pixels that are taken",
        )
    frame = _frame_of(header, choice)
    aspect = pixel_aspect(header, frame)
    is_masked = deidentify.check_burned_in(header, policy.burned_in, is_suspected=False)
    syntax = dicom.syntax_name(header)
    if dicom.may_abort(header) and not policy.may_die:
        stored = decode_apart(file, frame)
    else:
        stored = dicom.decode_frame(header, frame)
    pixels, grey = _dicom_pixels(header, frame, stored, choice)
    del stored
    if policy.is_heuristic and not is_masked and header.burned_in != "YES":
        luminance = pixels if pixels.ndim == 2 else pixels.max(axis=2)
        is_suspected = deidentify.looks_burned_in(header, luminance)
        is_masked = deidentify.check_burned_in(header, policy.burned_in, is_suspected=is_suspected)
    if is_masked:
        pixels = deidentify.mask_borders(header, pixels)
    image = made_square(_image(pixels, RECIPES[choice.recipe]), aspect, policy.max_pixels)
    return image, Facts(
        format="DICOM",
        width=image.width,
        height=image.height,
        modality=header.modality,
        frame=frame,
        frames=header.frames,
        bits=header.bits_stored,
        photometric=header.photometric,
        transfer_syntax=syntax,
        burned_in=header.burned_in,
        masked=is_masked,
        **_told(grey),
    )


def _dicom_pixels(
    header: DicomHeader, frame: int, stored: NDArray[Any], choice: Choice
) -> tuple[Pixels, _Grey | None]:
    recipe = RECIPES[choice.recipe]
    colours = dicom.colours(header, stored)
    is_ct = dicom.has_hounsfield_units(header, frame)
    if (recipe.channels or isinstance(choice.window, str)) and not is_ct:
        field = "recipe" if recipe.channels else "window"
        raise MedicalImageError(
            "invalid_value", "named windows are for CT in Hounsfield units only", field=field
        )
    if colours is not None:
        if choice.window is not None:
            raise MedicalImageError("invalid_value", "a colour image has no window", field="window")
        return colours, None
    table = dicom.value_table(header, frame, stored)
    if recipe.channels:
        return _three(table, recipe), _Grey(recipe.name, linear_of(recipe.channels[0]))
    grey = _grey_of(choice)
    if grey is None and recipe.is_own_window:
        own = dicom.own_scale(header, frame)
        grey = _Grey(*own) if own is not None else None
    grey = grey or _Grey("range", table.range_scale())
    return table.grey(grey.scale, is_inverted=dicom.is_inverted(header)), grey


def _read_nifti(file: bytes, choice: Choice, policy: Policy) -> tuple[Image.Image, Facts]:
    recipe = RECIPES[choice.recipe]
    found = nifti.read_slice(file, choice, policy.max_pixels)
    # NIfTI does not tell what was scanned: named windows are the client's claim that it is CT
    table = tabulate(found.values, lambda values: values)
    if recipe.channels:
        pixels, grey = _three(table, recipe), _Grey(recipe.name, linear_of(recipe.channels[0]))
    else:
        grey = _grey_of(choice) or _Grey("range", table.range_scale())
        pixels = table.grey(grey.scale, is_inverted=False)
    height, width = found.values.shape
    return _image(pixels, recipe), Facts(
        format="NIFTI",
        width=width,
        height=height,
        frame=found.volume,
        frames=found.volumes,
        slice=found.slice,
        slices=found.slices,
        bits=found.bits,
        **_told(grey),
    )


def linear_of(window: Window) -> Scale:
    """Return the scale of a window by DICOM's default function."""
    return lambda values: linear(values, window)


def _grey_of(choice: Choice) -> _Grey | None:
    match choice.window:
        case None:
            return None
        case Window() as window:
            return _Grey("values", linear_of(window), window)
        case str(name):
            return _Grey(name, linear_of(CT_WINDOWS[name]), CT_WINDOWS[name])


def _three(table: ValueTable, recipe: Recipe) -> Pixels:
    channels = [table.grey(linear_of(each), is_inverted=False) for each in recipe.channels]
    return np.stack(channels, axis=-1)


def _frame_of(header: DicomHeader, choice: Choice) -> int:
    for field in ("slice", "plane"):
        if getattr(choice, field) is not None:
            raise MedicalImageError(
                "invalid_value", f"{field} is for NIfTI volumes; DICOM has frames", field=field
            )
    frame = choice.frame or 1
    if frame > header.frames:
        raise MedicalImageError(
            "invalid_value", f"frame is {frame}; this file has 1 to {header.frames}", field="frame"
        )
    return frame


def _image(pixels: Pixels, recipe: Recipe) -> Image.Image:
    image = Image.fromarray(pixels)
    return image.convert("L") if recipe.is_grey and image.mode == "RGB" else image


def _told(grey: _Grey | None) -> dict[str, Any]:
    if grey is None:
        return {}
    window = grey.window
    return {
        "window": grey.name,
        "center": None if window is None else window.center,
        "window_width": None if window is None else window.width,
    }
