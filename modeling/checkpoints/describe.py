"""A conversion's result in words, before it is written."""

from collections.abc import Iterator

from modeling.checkpoints.hf_layout import TORCH_DTYPES, HfModel

_IMAGES = {
    "square": "shorter side resized, centre cut out",
    "pad": "padded to a square with the mean colour, resized",
    "resize": "resized to a square, shape lost",
    "keep": "shape kept; number of tokens differs (transformers engine only)",
}


def model_lines(model: HfModel) -> Iterator[str]:
    """Yield what a user would check before a long conversion."""
    tower, config = model.tower, model.config
    kind = {"clip_vision_model": "CLIP", "vit": "BiomedCLIP's ViT"}[tower.kind]
    ratio = config.image_aspect_ratio
    yield f"weights: {TORCH_DTYPES[model.dtype]}"
    yield (
        f"vision tower: {kind}, {tower.side_px} px in patches of {tower.config['patch_size']}, "
        f"{tower.num_patches} tokens per image"
    )
    yield f"images: {ratio} ({_IMAGES[ratio]})"
    yield f"conversation template: {model.template.name}"
    for role, token in model.special.items():
        yield f"{role}: {token!r} ({model.special_id(role)})"
    yield f"image token: {model.image_token!r} ({model.tokenizer.id_of(model.image_token)})"
    if model.stop_strings:
        yield f"answers end at: {', '.join(map(repr, model.stop_strings))}"
    yield f"context: {model.context_length} tokens"
