"""A folder of images counted: formats by their bytes, and of DICOM what its headers say of pixels.

Nothing is decoded, and of a DICOM file only the closed set of elements that conversion reads is
read. What does *not* live here: files of records (`inspecting.py`), words for the user
(`inspect_command.py`).
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from datagen.image_check import FORMATS
from modeling.medical_images.dicom import syntax_name
from modeling.medical_images.dicom_header import read_header
from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.signatures import is_dicom, is_nifti

_HEAD_BYTES = 4096
_MOST_BYTES = 256 << 20  # as `galen data captions` takes
_OTHER = "other files"


@dataclass(slots=True)
class ImageFolder:
    """What a folder holds.

    Args:
        formats: files of each; what is no image counts as `other files`.
        modalities: of DICOM images; `none` where a file names none.
        syntaxes: how their pixels are stored.
        num_frames: of all DICOM images.
        num_burned_in: those that state text within their pixels.
        problems: DICOM files that conversion would refuse, by reason.
    """

    formats: Counter[str] = field(default_factory=Counter[str])
    modalities: Counter[str] = field(default_factory=Counter[str])
    syntaxes: Counter[str] = field(default_factory=Counter[str])
    num_frames: int = 0
    num_burned_in: int = 0
    problems: Counter[str] = field(default_factory=Counter[str])

    def as_json(self) -> dict[str, Any]:
        """Return it for other programs."""
        return {
            "shape": "folder",
            "formats": dict(self.formats),
            "dicom": {
                "modalities": dict(self.modalities),
                "transfer_syntaxes": dict(self.syntaxes),
                "frames": self.num_frames,
                "burned_in": self.num_burned_in,
            },
            "problems": {kind: {"count": num} for kind, num in self.problems.most_common()},
        }

    def text(self) -> Iterator[str]:
        """Yield lines for a user."""
        yield f"  {_listed(self.formats) or 'nothing'}"
        if self.modalities:
            yield f"  DICOM: {_listed(self.modalities)}; {self.num_frames} frames"
            yield f"  stored as: {_listed(self.syntaxes)}"
        if self.num_burned_in:
            yield f"  {self.num_burned_in} state that text is part of their pixels"
        for kind, num in self.problems.most_common():
            yield f"  problem: {kind}: {num}"
        if not self.problems:
            yield "  no problems"


def inspect_folder(folder: Path) -> ImageFolder:
    """Count a folder, its sub-folders included; links are not followed."""
    found = ImageFolder()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD_BYTES)
            found.formats[_format_of(path, head)] += 1
            if is_dicom(head):
                _count_dicom(found, path)
        except OSError as error:
            found.problems[f"cannot be read ({error.strerror})"] += 1
    return found


def _format_of(path: Path, head: bytes) -> str:
    if is_dicom(head):
        return "DICOM"
    if is_nifti(head):
        return "NIfTI"
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.format or _OTHER
    except Exception:  # noqa: BLE001 - Pillow's readers raise whatever they stumble over
        return _OTHER


def _count_dicom(found: ImageFolder, path: Path) -> None:
    if path.stat().st_size > _MOST_BYTES:
        found.problems["file is too large"] += 1
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's may quote a value
            header = read_header(path.read_bytes())
        found.modalities[header.modality or "none"] += 1
        found.num_frames += header.frames
        found.num_burned_in += header.burned_in == "YES"
        found.syntaxes[syntax_name(header)] += 1
    except MedicalImageError as error:
        found.problems[f"{error.code}: {error.message}"] += 1


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {num}" for name, num in counts.most_common())
