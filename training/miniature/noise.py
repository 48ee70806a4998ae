"""Noise instead of an image: what a model answers then, it has not seen."""

import zlib

import numpy as np
from PIL import Image

from training.miniature.blank_model import IMAGE_PX


def noise_image(name: str) -> Image.Image:
    """Return uniform noise, the same for the same name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return Image.fromarray(rng.integers(0, 256, (IMAGE_PX, IMAGE_PX, 3), dtype=np.uint8))
