"""What a request says of its images, what its key allows and its model takes, as one preparation.

Pure; costs a few microseconds an image. What does *not* live here: decoding (`media/`).
"""

from collections.abc import Iterable, Sequence

import msgspec

from modeling.image_processing import MAX_PIXELS
from modeling.medical_images.choice import AS_IT_IS, Choice
from modeling.medical_images.errors import MedicalImageError
from modeling.medical_images.recipes import check_choice, fingerprint
from modeling.medical_images.windows import Window
from services.gateway.caller import Caller
from services.gateway.media.decode_messages import Preparation
from services.gateway.media.images import ImageInput
from services.gateway.openai_schemas import ImagePreprocess, ImageUrl, WindowValues
from services.gateway.settings import GatewaySettings
from services.protocol.errors import ErrorCode, RequestError
from services.protocol.messages import ImageRecipe, ModelCard

PREPROCESS_HEADER = "x-galen-preprocess"

CLIP_MEAN_RGB = (122, 116, 104)
"""What is put around an image that is padded though its checkpoint does not pad: 255 times the mean
colour of CLIP's training images (arXiv:2103.00020, its released preprocessing), rounded down."""

_NOTHING = ImagePreprocess()

LOW_PIXELS = 512 * 512
"""Of `detail: low`: what OpenAI's own API makes of it (its guide on images)."""


def image_inputs(
    images: Iterable[tuple[ImageUrl, str]],
    card: ModelCard,
    caller: Caller,
    settings: GatewaySettings,
) -> list[ImageInput]:
    """Return the images with their preparations.

    Args:
        images: each with the path of its URL, for errors.

    Raises:
        RequestError: a choice that fits no file.
    """
    burned_in = caller.burned_in or settings.burned_in
    inputs: list[ImageInput] = []
    for image, param in images:
        choice = _choice(image.preprocess, settings.image_recipes.get(card.id), image.url, param)
        recipe = _recipe(card.image_recipe, image.preprocess, param)
        preparation = Preparation(
            recipe=recipe,
            choice=choice,
            fit_pixels=LOW_PIXELS if image.detail == "low" else MAX_PIXELS,
            burned_in=burned_in,
            is_heuristic=settings.burned_in_heuristic,
        )
        mark = fingerprint(choice, _model_input(recipe, preparation.fit_pixels))
        inputs.append(ImageInput(image.url, param, preparation, mark))
    return inputs


def choice_of(asked: ImagePreprocess, model_recipe: str | None, place: str) -> Choice:
    """Return what is asked of an image.

    Args:
        model_recipe: the operator's, where none is asked for.
        place: the path of `asked`.

    Raises:
        RequestError: it fits no file.
    """
    window = asked.window
    choice = Choice(
        recipe=asked.recipe or model_recipe or AS_IT_IS.recipe,
        window=Window(window.center, window.width) if isinstance(window, WindowValues) else window,
        frame=asked.frame,
        slice=asked.slice,
        plane=asked.plane,
    )
    try:
        check_choice(choice)
    except MedicalImageError as error:
        raise RequestError(
            ErrorCode(error.code),
            error.message,
            param=f"{place}.{error.field}",
        ) from None
    return choice


def preprocess_header(inputs: Sequence[ImageInput]) -> str:
    """Return the fingerprints of a request's images, each once, in their order."""
    return ", ".join(dict.fromkeys(image.fingerprint for image in inputs))


def _choice(
    asked: ImagePreprocess | None, model_recipe: str | None, url: str, param: str
) -> Choice:
    if asked is not None and msgspec.structs.replace(asked, mode=None) == _NOTHING:
        asked = None
    if asked is None and (model_recipe is None or not _is_medical(url)):
        return AS_IT_IS
    place = f"{param.rpartition('.')[0]}.preprocess"
    return choice_of(asked or ImagePreprocess(), model_recipe, place)


def _recipe(
    recipe: ImageRecipe | None, asked: ImagePreprocess | None, param: str
) -> ImageRecipe | None:
    """Return how an image becomes the model's input, where the request chooses it."""
    if asked is None or asked.mode is None:
        return recipe
    if recipe is None or recipe.mode == "keep" or recipe.crop_width_px != recipe.crop_height_px:
        raise RequestError(
            ErrorCode.INVALID_VALUE,
            "this model does not bring images to one square, so there is no mode to choose; "
            "leave it out",
            param=f"{param.rpartition('.')[0]}.preprocess.mode",
        )
    if asked.mode == recipe.mode:
        return recipe
    side_px = recipe.crop_width_px
    fill_rgb = CLIP_MEAN_RGB if asked.mode == "pad" else (0, 0, 0)
    return ImageRecipe(side_px, side_px, side_px, asked.mode, fill_rgb)


def _is_medical(url: str) -> bool:
    return url[:17].lower() == "data:application/"


def _model_input(recipe: ImageRecipe | None, fit_pixels: int) -> str:
    if recipe is None:
        return f"at most {fit_pixels} pixels"
    return msgspec.json.encode(recipe).decode()
