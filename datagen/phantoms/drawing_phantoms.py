"""Scans that look a little like CT, radiographs, MRI, histology and photographs of organs.

They are cartoons with the marks by which one tells a modality (black air and a white skull; ribs
over dark lungs; pink and violet stains), no anatomy. Lesions are white in CT and in radiographs of
the chest, dark in bones and in MRI, dark violet in histology, yellow in photographs. What does
*not* live here: what is true of a scan (`facts.py`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from datagen.phantoms import canvas
from datagen.phantoms.canvas import Colour, Pixels, paint
from datagen.phantoms.facts import MODALITIES, ORGANS, Room, Scan, draw_spots

_CLOTHS: tuple[Colour, ...] = ((70, 120, 185), (75, 150, 110), (175, 185, 190))


@dataclass(frozen=True, slots=True)
class _Kind:
    """How an organ looks in a modality.

    Args:
        draw: the organ without lesions.
        room: where lesions lie.
        noise: deviation of the noise, in grey levels.
    """

    draw: Callable[[np.random.Generator], Pixels]
    room: Room
    lesion: Colour
    noise: float


def draw_scan(rng: np.random.Generator) -> tuple[Scan, Image.Image]:
    """Draw a scan: each modality is as likely as the others, and each of its organs; RGB, 64 px."""
    scan = draw_scan_facts(rng)
    return scan, paint_scan(scan, rng)


def draw_scan_facts(rng: np.random.Generator) -> Scan:
    """Draw what is true of a scan, without drawing it."""
    modality = MODALITIES[int(rng.integers(len(MODALITIES)))]
    organs = ORGANS[modality]
    organ = organs[int(rng.integers(len(organs)))]
    return Scan(modality, organ, draw_spots(rng, _KINDS[modality, organ].room))


def paint_scan(scan: Scan, rng: np.random.Generator) -> Image.Image:
    """Paint a scan; another with the same `rng` differs in nothing but its lesions."""
    kind = _KINDS[scan.modality, scan.organ]
    picture = kind.draw(rng)
    grain = canvas.noise(rng, kind.noise)
    for (x, y), light in zip(scan.spots.centres_px, rng.uniform(-8, 8, 2), strict=False):
        lesion = tuple(part + float(light) for part in kind.lesion)
        canvas.paint_disc(picture, x, y, scan.spots.radius_px, lesion)
    return canvas.to_image(picture + grain)


def _ct_chest(rng: np.random.Generator) -> Pixels:
    picture = canvas.fill((4,))
    paint(picture, canvas.ellipse(32, 32, 31, 28), (135,))
    tall = float(rng.uniform(19, 21))
    for x in (18.5, 45.5):
        paint(picture, canvas.ellipse(x, 31, 10.5, tall), (30,))
    paint(picture, canvas.ellipse(33, 27 + float(rng.uniform(-2, 2)), 4.5, 9), (150,))
    paint(picture, canvas.ellipse(32, 53, 5, 4), (185,))
    return picture


def _ct_abdomen(rng: np.random.Generator) -> Pixels:
    picture = canvas.fill((4,))
    paint(picture, canvas.ellipse(32, 32, 31.5, 28.5), (70,))
    paint(picture, canvas.ellipse(32, 32, 29.5, 26.5), (105,))
    turn = float(rng.uniform(0.1, 0.5))
    paint(picture, canvas.ellipse(20, 26, 15, 14, turn), (140,))
    paint(picture, canvas.ellipse(47, 28, 8, 11, -turn), (125,))
    for x in (18, 46):
        paint(picture, canvas.ellipse(x, 44, 6, 5), (150,))
    paint(picture, canvas.ellipse(32, 50, 6, 5), (170,))
    return picture


def _ct_brain(rng: np.random.Generator) -> Pixels:
    picture = canvas.fill((4,))
    wide = float(rng.uniform(29.5, 31))
    paint(picture, canvas.ellipse(32, 32, wide, 31.5), (235,))
    paint(picture, canvas.ellipse(32, 32, wide - 2.7, 28.8), (95,))
    picture += 6 * canvas.clouds(rng, 9)[:, :, None]
    paint(picture, canvas.box(32, 32, 0.4, 28), (150,))
    for x in (28, 36):
        paint(picture, canvas.ellipse(x, 31, 2, 6, 0.35 if x > 32 else -0.35), (55,))
    return picture


def _radiograph_chest(rng: np.random.Generator) -> Pixels:
    picture = canvas.fill((150,))
    picture += 15 * canvas.ramp(math.pi / 2)[:, :, None]
    for x in (18, 46):
        paint(picture, canvas.ellipse(x, 31, 12, 25), (55,))
    phase = float(rng.uniform(0, 6))
    for sign in (-1, 1):
        ribs = np.clip(canvas.stripes(math.pi / 2 + sign * 0.35, 9, phase), 0, 1)
        half = np.zeros((64, 64), np.float32)
        half[:, slice(0, 32) if sign > 0 else slice(32, 64)] = 1
        picture += (32 * ribs * half)[:, :, None]
    paint(picture, canvas.box(32, 32, 3, 32), (165,))
    paint(picture, canvas.ellipse(36, 43, 9, 11, 0.5), (160,))
    return picture


def _radiograph_leg(rng: np.random.Generator) -> Pixels:
    picture = canvas.fill((110,))
    for x in (17, 47):
        shift = float(rng.uniform(-1.5, 1.5))
        shaft = canvas.box(x + shift, 32, 7, 33)
        for y in (2, 62):  # towards the joints
            shaft = np.maximum(shaft, canvas.ellipse(x + shift, y, 12, 9))
        paint(picture, shaft, (205,))
        paint(picture, canvas.box(x + shift, 32, 3, 33), (180,))
    paint(picture, canvas.box(32, 32, 2, 33), (25,))
    return picture


def _mri_brain(rng: np.random.Generator) -> Pixels:
    picture = canvas.fill((6,))
    wide = float(rng.uniform(25, 27))
    paint(picture, canvas.ellipse(32, 32, wide + 2, 31), (105,))
    paint(picture, canvas.ellipse(32, 32, wide + 0.5, 29.5), (30,))
    paint(picture, canvas.ellipse(32, 32, wide, 28.5), (140,))
    paint(picture, canvas.ellipse(32, 32, wide - 4, 24), (175,))
    picture += 14 * canvas.clouds(rng, 13)[:, :, None]
    for sign in (-1, 1):
        paint(picture, canvas.ellipse(32 + 4 * sign, 32, 2.5, 8, 0.4 * sign), (245,))
    return picture


def _mri_spine(rng: np.random.Generator) -> Pixels:
    picture = canvas.fill((110,))
    picture += 14 * canvas.clouds(rng, 7)[:, :, None]
    bend, start = float(rng.uniform(2, 4)), float(rng.uniform(0, 6))
    spine, canal = np.zeros((2, canvas.SIZE_PX, canvas.SIZE_PX), np.float32)
    for step in range(-1, 7):
        y = start + 10.5 * step
        x = 30 + bend * math.sin(y / 12)
        spine += canvas.box(x, y, 6, 3.8)
        canal = np.maximum(canal, canvas.ellipse(x + 10.5, y + 4, 2.3, 8))
    paint(picture, canal, (240,))
    paint(picture, spine, (195,))
    return picture


def _histology_colon(rng: np.random.Generator) -> Pixels:
    picture = canvas.fill((240, 180, 212))
    # glands: a wreath of cells around a pale hole
    shift_x, shift_y = rng.uniform(0, 14, 2)
    distance = canvas.lattice(13.5, (float(shift_x), float(shift_y)))
    paint(picture, np.clip(5.9 - distance, 0, 1), (196, 130, 200))
    paint(picture, np.clip(3.5 - distance, 0, 1), (252, 236, 246))
    return picture


def _histology_lymph_node(rng: np.random.Generator) -> Pixels:
    picture = canvas.fill((222, 184, 226))
    paint(picture, 0.8 * canvas.speckles(rng, 0.5), (158, 116, 196))
    picture += 8 * canvas.clouds(rng, 5)[:, :, None]
    return picture


def _histology_skin(rng: np.random.Generator) -> Pixels:
    picture = canvas.fill((246, 178, 205))
    phase = 1.6 * canvas.clouds(rng, 5)
    waves = np.sin(canvas.ramp(math.pi / 2) * 26 + 2 * phase)
    picture += (16 * waves)[:, :, None]
    paint(picture, canvas.box(32, 0, 33, 5), (178, 104, 184))
    paint(picture, canvas.box(32, 0, 33, 2), (246, 216, 232))
    return picture


def _cloth(rng: np.random.Generator) -> Pixels:
    cloth = canvas.fill(_CLOTHS[int(rng.integers(len(_CLOTHS)))])
    cloth += 7 * canvas.clouds(rng, 12)[:, :, None]
    return cloth


def _photograph_kidney(rng: np.random.Generator) -> Pixels:
    picture = _cloth(rng)
    hilum = 1 if rng.random() < 0.5 else -1  # the side of the notch
    bean = np.maximum(canvas.ellipse(32, 21, 25, 19), canvas.ellipse(32, 43, 25, 19))
    notch = canvas.ellipse(32 + 27 * hilum, 32, 9, 7)
    paint(picture, bean * (1 - notch), (150, 40, 42))
    paint(picture, canvas.ellipse(32 + 15 * hilum, 32, 6, 4.5) * bean, (105, 22, 32))
    picture += 7 * canvas.clouds(rng, 6)[:, :, None]
    return picture


def _photograph_liver(rng: np.random.Generator) -> Pixels:
    picture = _cloth(rng)
    right_lobe = canvas.ellipse(25, 33, 24, 28)
    left_lobe = canvas.ellipse(46, 26, 17, 22, 0.3)
    brown = (122, 66, 36)
    paint(picture, np.maximum(right_lobe, left_lobe), brown)
    paint(picture, canvas.ellipse(46, 42, 13, 15, -0.5), brown)
    paint(picture, canvas.ellipse(39, 32, 0.9, 22, 0.15), (84, 42, 24))  # between the lobes
    picture += 9 * canvas.clouds(rng, 8)[:, :, None]
    return picture


_WHOLE = Room()
_VIOLET: Colour = (58, 16, 92)
_YELLOW: Colour = (244, 222, 120)
_KINDS: Mapping[tuple[str, str], _Kind] = {
    ("CT", "chest"): _Kind(_ct_chest, Room(28, 25), (248,), 7),
    ("CT", "abdomen"): _Kind(_ct_abdomen, Room(29, 26), (248,), 7),
    ("CT", "brain"): _Kind(_ct_brain, Room(26.5, 28), (248,), 7),
    ("radiograph", "chest"): _Kind(_radiograph_chest, _WHOLE, (248,), 5),
    ("radiograph", "leg"): _Kind(_radiograph_leg, _WHOLE, (18,), 5),
    ("MRI", "brain"): _Kind(_mri_brain, Room(25, 28), (25,), 6),
    ("MRI", "spine"): _Kind(_mri_spine, _WHOLE, (12,), 6),
    ("histology", "colon"): _Kind(_histology_colon, _WHOLE, _VIOLET, 6),
    ("histology", "lymph node"): _Kind(_histology_lymph_node, _WHOLE, _VIOLET, 5),
    ("histology", "skin"): _Kind(_histology_skin, _WHOLE, _VIOLET, 6),
    ("photograph", "kidney"): _Kind(_photograph_kidney, Room(25, 29), _YELLOW, 4),
    ("photograph", "liver"): _Kind(_photograph_liver, Room(29, 26), _YELLOW, 4),
}
