"""`preprocess.mode`: how an image becomes the model's square, where a request chooses it."""

import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from modeling.image_recipe import apply_recipe
from services.protocol.messages import ImageRecipe
from tests.end_to_end.conftest import FAKE_MODEL
from tests.end_to_end.stack import RunningStack
from tests.gateway.media.image_files import noise, saved

pytestmark = pytest.mark.e2e

SIDE = 336  # the fake engine's
RECIPES = {
    "crop": ImageRecipe(SIDE, SIDE, SIDE),
    "pad": ImageRecipe(SIDE, SIDE, SIDE, "pad", (122, 116, 104)),
    "resize": ImageRecipe(SIDE, SIDE, SIDE, "resize"),
}


def preview(stack: RunningStack, image: Image.Image, **preprocess: Any) -> Any:
    url = f"data:image/png;base64,{base64.b64encode(saved(image, 'PNG')).decode()}"
    body = {"model": FAKE_MODEL, "image_url": {"url": url, "preprocess": preprocess}}
    return httpx.post(f"{stack.base_url}/v1/galen/preview", json=body).json()


def pixels_of(found: Any) -> np.ndarray:
    content = base64.b64decode(found["image"].partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("mode", RECIPES)
def test_each_mode_is_that_of_a_checkpoint_which_has_it(
    fake_stack: RunningStack, mode: str
) -> None:
    image = noise(200, 80)

    found = preview(fake_stack, image, mode=mode)

    assert (pixels_of(found) == np.asarray(apply_recipe(image, RECIPES[mode]))).all()
    own = preview(fake_stack, image)["fingerprint"]
    assert (found["fingerprint"] == own) == (mode == "crop")


def test_a_mode_that_is_none_is_refused_by_its_name(fake_stack: RunningStack) -> None:
    error = preview(fake_stack, noise(60, 60), mode="keep")["error"]

    assert error["code"] == "invalid_value"
    assert error["param"] == "image_url.preprocess.mode"
