"""Everyday pictures: a big shape on a background, with spots.

The stand-in for what a general-domain model has seen. Four in ten have greys only, and backgrounds
and shapes have shades and textures: a vision tower that is trained on these pictures alone, and
frozen, must see scans with it later. What does *not* live here: what is true of a picture
(`facts.py`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from datagen.phantoms import canvas
from datagen.phantoms.canvas import Pixels, paint
from datagen.phantoms.facts import (
    BACKGROUNDS,
    COLOURS,
    GREYS,
    SHAPES,
    Picture,
    Room,
    draw_spots,
)

_RGB: Mapping[str, tuple[float, float, float]] = {
    "red": (215, 40, 40),
    "green": (45, 160, 65),
    "blue": (45, 75, 215),
    "yellow": (235, 212, 60),
    "purple": (125, 55, 160),
    "pink": (245, 165, 200),
    "brown": (130, 75, 40),
    "black": (18, 18, 18),
    "grey": (128, 128, 128),
    "white": (240, 240, 240),
}
_GREY_SHARE = 0.4
_SHAPELESS_SHARE = 1 / 6
_TEXTURED_SHARE = 0.5  # of the shapes
_JITTER = 14.0
# Two colours of one picture are at least so far apart in RGB, spots from all that they may lie on.
_APART = 105.0


@dataclass(frozen=True, slots=True)
class _Paints:
    background: str
    shape: str
    spot: str


def draw_picture(rng: np.random.Generator) -> tuple[Picture, Image.Image]:
    """Draw a picture, RGB, 64 px."""
    picture = draw_picture_facts(rng)
    return picture, paint_picture(picture, rng)


def draw_picture_facts(rng: np.random.Generator) -> Picture:
    """Draw what is true of a picture, without drawing it."""
    spots = draw_spots(rng, Room())
    paints = _draw_paints(rng)
    has_shape = rng.random() >= _SHAPELESS_SHARE
    return Picture(
        background=_one_of(BACKGROUNDS, rng),
        background_colour=paints.background,
        shape=_one_of(SHAPES, rng) if has_shape else None,
        shape_colour=paints.shape if has_shape else None,
        spot_colour=paints.spot if spots.centres_px else None,
        spots=spots,
    )


def paint_picture(picture: Picture, rng: np.random.Generator) -> Image.Image:
    """Paint a picture; another with the same `rng` differs in nothing but its spots."""
    painted = _background(picture, rng)
    if picture.shape is not None and picture.shape_colour is not None:
        _paint_shape(painted, picture.shape, _shade(picture.shape_colour, rng), rng)
    grain = canvas.noise(rng, float(rng.uniform(1, 7)))
    if picture.spot_colour is not None:
        colour = _shade(picture.spot_colour, rng)
        for x, y in picture.spots.centres_px:
            canvas.paint_disc(painted, x, y, picture.spots.radius_px, colour)
    return canvas.to_image(painted + grain)


def _draw_paints(rng: np.random.Generator) -> _Paints:
    colours = GREYS if rng.random() < _GREY_SHARE else COLOURS
    while True:
        names = [_one_of(colours, rng) for _ in range(3)]
        pairs = ((0, 1), (0, 2), (1, 2))
        if all(math.dist(_RGB[names[a]], _RGB[names[b]]) >= _APART for a, b in pairs):
            return _Paints(*names)


def _background(picture: Picture, rng: np.random.Generator) -> Pixels:
    painted = canvas.fill(_shade(picture.background_colour, rng))
    turn = float(rng.uniform(0, 2 * math.pi))
    match picture.background:
        case "shaded":
            painted += 40 * canvas.ramp(turn)[:, :, None]
        case "striped":
            waves = canvas.stripes(turn, float(rng.uniform(6, 10)), turn)
            painted += 26 * np.sign(waves)[:, :, None]
        case "speckled":
            light = 45 if painted[0, 0].mean() < 128 else -45
            painted += light * canvas.speckles(rng, float(rng.uniform(0.15, 0.45)))[:, :, None]
        case "cloudy":
            painted += 38 * canvas.clouds(rng, int(rng.integers(5, 12)))[:, :, None]
        case "noisy":
            painted += canvas.noise(rng, 24)
        case _:
            pass
    return painted


def _paint_shape(
    painted: Pixels, shape: str, colour: tuple[float, ...], rng: np.random.Generator
) -> None:
    x, y = (32 + float(shift) for shift in rng.uniform(-3, 3, 2))
    big = float(rng.uniform(22, 28))
    match shape:
        case "disc":
            mask = canvas.disc(x, y, big)
        case "oval":
            wide = rng.random() < 0.5
            narrow = big * float(rng.uniform(0.55, 0.68))
            mask = canvas.ellipse(x, y, *((big, narrow) if wide else (narrow, big)))
        case "box":
            mask = canvas.box(x, y, big, big * float(rng.uniform(0.75, 1)))
        case "ring":
            mask = canvas.ring(x, y, big, big, float(rng.uniform(3, 5)))
        case _:  # a pair
            tall = float(rng.uniform(16, 22))
            mask = canvas.ellipse(x - 14, y, 10, tall) + canvas.ellipse(x + 14, y, 10, tall)
    paint(painted, mask, colour)
    if rng.random() < _TEXTURED_SHARE:
        hills = canvas.clouds(rng, int(rng.integers(5, 13)))
        painted += (float(rng.uniform(10, 28)) * mask * hills)[:, :, None]


def _shade(colour: str, rng: np.random.Generator) -> tuple[float, ...]:
    """Return a shade of a colour; a grey stays one."""
    jitter = rng.uniform(-_JITTER, _JITTER, 1 if colour in GREYS else 3)
    return tuple(float(level) for level in np.array(_RGB[colour]) + jitter)


def _one_of(names: tuple[str, ...], rng: np.random.Generator) -> str:
    return names[int(rng.integers(len(names)))]
