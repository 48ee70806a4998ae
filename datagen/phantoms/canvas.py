"""Brushes: soft-edged ellipses and boxes, textures and noise on a canvas of 64 x 64 pixels.

A canvas is float32 [64, 64, C], 0 is black and 255 white; C is 1 (grey) or 3 (RGB). A mask is
float32 [64, 64], from 0 (untouched) to 1 (painted over). What does *not* live here: what is drawn.
"""

import functools
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIZE_PX = 64
MIDDLE_PX = SIZE_PX / 2

Pixels = NDArray[np.float32]
Colour = tuple[float, ...]
"""One number for a grey canvas, three for RGB."""

# The centres of the pixels: a row and a column that numpy spreads out where they meet.
_X: Pixels = np.arange(SIZE_PX, dtype=np.float32)[None, :] + np.float32(0.5)
_Y: Pixels = np.arange(SIZE_PX, dtype=np.float32)[:, None] + np.float32(0.5)


def fill(colour: Colour) -> Pixels:
    """Return a canvas of one colour."""
    canvas = np.empty((SIZE_PX, SIZE_PX, len(colour)), np.float32)
    canvas[:] = colour
    return canvas


def paint(canvas: Pixels, mask: Pixels, colour: Colour) -> None:
    """Paint a colour where the mask is, in place."""
    canvas += mask[:, :, None] * (np.array(colour, np.float32) - canvas)


def ellipse(x: float, y: float, half_width: float, half_height: float, turn: float = 0.0) -> Pixels:
    """Return the mask of an ellipse, its edge one pixel soft.

    Args:
        turn: anti-clockwise as one sees it, in radians.
    """
    across, down = _X - x, _Y - y
    if turn:
        cosine, sine = math.cos(turn), math.sin(turn)
        across, down = across * cosine - down * sine, across * sine + down * cosine
    distance = np.sqrt((across / half_width) ** 2 + (down / half_height) ** 2)
    return np.clip((1 - distance) * min(half_width, half_height) + 0.5, 0, 1).astype(np.float32)


def paint_disc(canvas: Pixels, x: float, y: float, radius: float, colour: Colour) -> None:
    """Paint a disc in place; much quicker than a mask of the whole canvas where it is small."""
    reach = radius + 1
    rows = slice(max(int(y - reach), 0), int(y + reach) + 1)
    columns = slice(max(int(x - reach), 0), int(x + reach) + 1)
    distance = np.sqrt((_X[:, columns] - x) ** 2 + (_Y[rows] - y) ** 2)
    mask = np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)
    paint(canvas[rows, columns], mask, colour)


def disc(x: float, y: float, radius: float) -> Pixels:
    """Return the mask of a disc."""
    return ellipse(x, y, radius, radius)


def ring(x: float, y: float, half_width: float, half_height: float, thickness: float) -> Pixels:
    """Return the mask of an ellipse's outline, `thickness` pixels inwards."""
    inner = ellipse(x, y, half_width - thickness, half_height - thickness)
    return ellipse(x, y, half_width, half_height) - inner


def box(x: float, y: float, half_width: float, half_height: float) -> Pixels:
    """Return the mask of an upright box, its edges one pixel soft."""
    across = np.clip(half_width + 0.5 - np.abs(_X - x), 0, 1)
    down = np.clip(half_height + 0.5 - np.abs(_Y - y), 0, 1)
    return (across * down).astype(np.float32)


def lattice(period_px: float, shift: tuple[float, float]) -> Pixels:
    """Return how far each pixel is from the nearest knot of a brick-like lattice, in pixels."""
    down = (_Y + shift[1]) / period_px
    row = np.floor(down)
    across = (_X + shift[0]) / period_px + 0.5 * (row % 2)
    return np.hypot(across % 1 - 0.5, down - row - 0.5) * np.float32(period_px)


def ramp(turn: float) -> Pixels:
    """Return a slope from about -1 to 1 across the canvas, rising towards `turn` radians."""
    slope = (_X - MIDDLE_PX) * math.cos(turn) - (_Y - MIDDLE_PX) * math.sin(turn)
    return (slope / MIDDLE_PX).astype(np.float32)


def stripes(turn: float, period_px: float, phase: float = 0.0) -> Pixels:
    """Return waves between -1 and 1 that run towards `turn` radians."""
    return np.sin(ramp(turn) * (2 * math.pi * MIDDLE_PX / period_px) + phase).astype(np.float32)


def clouds(rng: np.random.Generator, cells: int) -> Pixels:
    """Return smooth random hills, mostly between -1 and 1, about 64 / `cells` pixels wide."""
    coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
    weights = _smooth_weights(cells)
    return np.matmul(weights @ coarse, weights.T, dtype=np.float32)


def speckles(rng: np.random.Generator, share: float, grain_px: int = 2) -> Pixels:
    """Return a mask of little squares, `grain_px` wide, that cover a share of the canvas."""
    cells = SIZE_PX // grain_px
    chosen = (rng.random((cells, cells), np.float32) < share).astype(np.float32)
    return chosen.repeat(grain_px, axis=0).repeat(grain_px, axis=1)


def noise(rng: np.random.Generator, deviation: float) -> Pixels:
    """Return noise of pixels, the same in all colours: a canvas of one channel to add."""
    return rng.standard_normal((SIZE_PX, SIZE_PX, 1), np.float32) * np.float32(deviation)


def to_image(canvas: Pixels) -> Image.Image:
    """Return the canvas as an RGB image; what is darker than black or lighter than white is cut."""
    levels = np.clip(canvas, 0, 255).astype(np.uint8)
    if levels.shape[2] == 1:
        levels = np.broadcast_to(levels, (SIZE_PX, SIZE_PX, 3))
    return Image.fromarray(np.ascontiguousarray(levels))


@functools.cache
def _smooth_weights(cells: int) -> Pixels:
    """Return how much of each of `cells` knots is in each pixel of a row; sums to 1."""
    knots = np.linspace(0, SIZE_PX, cells, dtype=np.float32)[:, None]
    distance = np.minimum(np.abs(_X - knots) * (cells - 1) / SIZE_PX, 1)
    return np.ascontiguousarray((0.5 + 0.5 * np.cos(np.pi * distance)).T.astype(np.float32))
