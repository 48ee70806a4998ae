"""A copy of a tiny LLaVA in which gradients reach what a recipe trains, as torch and PEFT do it."""

import copy

from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from transformers import LlavaForConditionalGeneration

from training.config import TrainConfig


def trainable_copy(
    base: LlavaForConditionalGeneration, config: TrainConfig
) -> LlavaForConditionalGeneration:
    """Return the copy, frozen where the recipe trains nothing."""
    model = copy.deepcopy(base)
    model.requires_grad_(False)
    parts = model.model
    parts.multi_modal_projector.requires_grad_(True)
    parts.vision_tower.requires_grad_(config.train.vision_tower)
    if config.train.language_model == "full":
        parts.language_model.requires_grad_(True)
        model.lm_head.requires_grad_(True)
    elif config.train.language_model == "lora":
        lora = PeftLoraConfig(
            r=config.lora.rank,
            lora_dropout=config.lora.dropout,
            target_modules=list(config.lora.target_modules),
        )
        inject_adapter_in_model(lora, parts.language_model)
    return model
