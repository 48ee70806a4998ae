"""Drawn phantoms with something to say about each: one coloured shape on one side of a picture.

Lives here: drawing, and questions with their right answers. They are not medical; they give a tiny
checkpoint something that it can be right or wrong about. What does *not* live here: training
(`demo.py`).
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 215, 50),
}
SHAPES = ("disc", "ring", "bar")
SIDES = ("left", "right")

DESCRIBE = (
    "What does this image show?",
    "Describe this image.",
    "What do you see?",
    "What is in this picture?",
)
QUESTIONS = (
    *DESCRIBE,
    "What colour is it?",
    "Which shape is it?",
    "On which side is it?",
)
_DRAWN_PX = 112


@dataclass(frozen=True, slots=True)
class Phantom:
    """What is drawn; `side` is the picture's, as the viewer sees it."""

    colour: str
    shape: str
    side: str

    @property
    def caption(self) -> str:
        """The right answer to "What does this image show?"."""
        return f"The image shows a {self.colour} {self.shape} on the {self.side}."

    def answer(self, question: str) -> str:
        """Return the right answer to one of `QUESTIONS`."""
        if "colour" in question:
            return f"It is {self.colour}."
        if "shape" in question:
            return f"It is a {self.shape}."
        if "side" in question:
            return f"It is on the {self.side}."
        return self.caption


def draw_phantom(rng: np.random.Generator) -> tuple[Phantom, Image.Image]:
    """Draw a phantom on a plain or shaded grey background; RGB, 112 x 112 pixels."""
    phantom = Phantom(
        str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES)), str(rng.choice(SIDES))
    )
    size = _DRAWN_PX
    shade = rng.uniform(0, 255) + rng.uniform(-40, 40) * np.linspace(-1, 1, size)
    grey = np.repeat(shade[:, None], size, axis=1)
    grey = (grey if rng.random() < 0.5 else grey.T) + rng.normal(0, 4, (size, size))
    image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB")
    radius = rng.uniform(17, 27)
    across = rng.uniform(radius + 2, size / 2 - radius / 2)
    x = across if phantom.side == "left" else size - across
    y = rng.uniform(radius + 2, size - radius - 2)
    jitter = rng.uniform(-20, 20, 3)
    red, green, blue = np.clip(np.array(COLOURS[phantom.colour]) + jitter, 0, 255).astype(int)
    _draw_shape(ImageDraw.Draw(image), phantom.shape, (x, y, radius), (red, green, blue))
    return phantom, image


def _draw_shape(
    pen: ImageDraw.ImageDraw,
    shape: str,
    place: tuple[float, float, float],
    fill: tuple[int, int, int],
) -> None:
    x, y, radius = place
    if shape == "disc":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif shape == "ring":
        box = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(box, outline=fill, width=int(radius / 4))
    else:
        pen.rectangle((x - radius, y - radius / 4, x + radius, y + radius / 4), fill=fill)
