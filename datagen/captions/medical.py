"""DICOM and NIfTI files become PNG: one frame's pixels, and nothing else of the file.

Read by the code of the gateway and of `galen evaluate` (`modeling.medical_images`). Neither a tag
nor the file's name, which is an identifier often, reaches the PNG, its name or the manifest. What
does *not* live here: how values become grey, other images (`pictures.py`).
"""

import dataclasses
import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from datagen.captions.placing import put
from datagen.errors import DataError
from modeling.durable_files import unfinished_of
from modeling.medical_images.choice import AS_IT_IS, Choice
from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.reading import Policy, is_medical, read_medical
from modeling.medical_images.recipes import check_choice, fingerprint
from modeling.medical_images.windows import Window

HEAD_BYTES = 4096
"""Of a file: enough to know it by, packed NIfTI included."""
KEPT_AS = "kept as PNG"
"""Of the fingerprint: no model's own preprocessing is part of it."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """How medical files become pictures.

    Args:
        choice: for all of them; a row's own frame counts more.
        policy: what is refused, or masked.
    """

    choice: Choice = AS_IT_IS
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that a figure may name.

    Args:
        preprocess: of a converted one: what its pixels are made by, as the record tells it.
    """

    name: str
    preprocess: dict[str, object] | None = None


def choice_of(recipe: str, window: str | None, frame: int | None) -> Choice:
    """Return a choice.

    Args:
        window: a name, or `CENTER/WIDTH`.

    Raises:
        DataError: it fits no file.
    """
    chosen: str | Window | None = window
    if window is not None and "/" in window:
        center, _, width = window.partition("/")
        try:
            chosen = Window(float(center), float(width))
        except ValueError:
            raise DataError(f"window {window!r} is neither a name nor CENTER/WIDTH") from None
    choice = Choice(recipe=recipe, window=chosen, frame=frame)
    try:
        check_choice(choice)
    except MedicalImageError as error:
        raise DataError(f"{error.field}: {error.message}") from None
    return choice


def is_medical_file(file: Path) -> bool:
    """Whether a file begins as DICOM or NIfTI."""
    with file.open("rb") as opened:
        return is_medical(opened.read(HEAD_BYTES))


class MedicalPictures:
    """Converts files, and writes a line for each picture.

    Args:
        placed: the folder for pictures; None: no medical file is taken.
        manifest: gets the lines.
    """

    def __init__(self, placed: Path | None, conversion: Conversion, manifest: TextIO) -> None:
        self._placed = placed
        self._conversion = conversion
        self._manifest = manifest
        self._told: set[str] = set()

    @property
    def num_pictures(self) -> int:
        """How many there are."""
        return len(self._told)

    def picture_of(self, content: bytes, frame: int | None) -> Picture:
        """Return the picture of a file, which is on the disk now; raises DataError, the reason.

        Its name is made of its pixels, so it is the same in the next run.

        Args:
            frame: the row's own.
        """
        if self._placed is None:
            raise DataError("image is DICOM or NIfTI, which is converted: give --out-images")
        choice = self._conversion.choice
        if frame is not None:
            choice = dataclasses.replace(choice, frame=frame)
        try:
            image, facts = read_medical(content, choice, self._conversion.policy)
        except MedicalImageError as error:
            raise DataError(_reason(error)) from None
        png = io.BytesIO()
        image.save(png, "PNG")
        kind = facts.modality.lower() or facts.format.lower()
        digest = hashlib.blake2b(png.getvalue(), digest_size=8).hexdigest()
        name = f"{kind}-{digest}.png"
        self._write(self._placed / name, png.getvalue())
        preprocess: dict[str, object] = {
            "recipe": choice.recipe,
            "window": facts.window,
            "frame": facts.frame,
            "fingerprint": fingerprint(choice, KEPT_AS),
        }
        if name not in self._told:
            self._told.add(name)
            line = {
                "image": name,
                "sha256": hashlib.sha256(png.getvalue()).hexdigest(),
                "source_sha256": hashlib.sha256(content).hexdigest(),
                "preprocess": preprocess,
                "facts": dataclasses.asdict(facts),
            }
            self._manifest.write(f"{json.dumps(line)}\n")
        return Picture(name, preprocess)

    def _write(self, place: Path, png: bytes) -> None:
        unfinished = unfinished_of(place)
        try:
            unfinished.write_bytes(png)
            put(unfinished, place)
        except OSError as error:
            raise DataError(f"image cannot be placed ({error.strerror})") from error
        finally:
            unfinished.unlink(missing_ok=True)


def _reason(error: MedicalImageError) -> str:
    if error.code == "phi_burned_in":
        return (
            "text about a patient is, or seems to be, part of the image's pixels: remove it, or "
            "give --burned-in mask or allow"
        )
    return f"image cannot be converted: {error.message}"
