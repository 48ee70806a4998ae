"""What a prompt costs in tokens, as far as the gateway can tell without a tokenizer. Pure.

What does *not* live here: what of it is refused (`admission.py`) and who is charged
(`token_charges.py`).
"""

from modeling.image_sizes import kept_size
from services.protocol.messages import GenerationRequest, ModelCard, TextPart

CHARACTERS_PER_TOKEN = 4
"""Of English text in the served models' tokenizers, about (OpenAI's help centre says the same)."""
_PX_PER_TOKEN = 28
"""Side of the square that is one token where the card says nothing: Qwen2-VL's merged patches."""
_MOST_PIXELS = 1_048_576
"""The gateway sends no larger image without a recipe (`modeling.image_processing.MAX_PIXELS`)."""
UNKNOWN_SIZE = (1024, 1024)


def image_tokens(card: ModelCard, size: tuple[int, int]) -> tuple[int, bool]:
    """Return the tokens of an image of `size` (pixels), and whether that is certain."""
    recipe = card.image_recipe
    if recipe is not None and recipe.mode == "keep" and recipe.patch_px:
        side_px, patch_px = recipe.crop_width_px, recipe.patch_px
        width, height = kept_size(*size, side_px=side_px, patch_px=patch_px)
        return (width // patch_px) * (height // patch_px), True
    if card.image_tokens:
        return card.image_tokens, True
    pixels = min(size[0] * size[1], _MOST_PIXELS)
    return max(1, pixels // (_PX_PER_TOKEN * _PX_PER_TOKEN)), False


def prompt_tokens(request: GenerationRequest, card: ModelCard | None) -> int:
    """Return about how many tokens a request's prompt has, its images included."""
    characters = of_images = 0
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, TextPart):
                characters += len(part.text)
            elif card is None:
                of_images += 1
            else:
                size = (part.image.width, part.image.height)
                of_images += image_tokens(card, size)[0]
    return 1 + characters // CHARACTERS_PER_TOKEN + of_images
