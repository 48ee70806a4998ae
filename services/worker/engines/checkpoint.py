"""Opening a Hugging Face checkpoint safely: no code from it, no pickles, nothing from the network.

Lives here: the checks before loading, loading, and the few facts about a model that the engine
needs. What does *not* live here: running it (`model_runner.py`).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from services.protocol.messages import ImageRecipe
from services.worker.engines.base import EngineStartError

_PICKLES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
_DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
# Without a figure of its own, a checkpoint gets the context of the Llama family's first release.
_DEFAULT_CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model with what the engine has to know of it.

    Args:
        eos_ids: tokens that end an answer, as its `generate` takes them.
        context_length: tokens, prompt and answer together.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    eos_ids: frozenset[int]
    image_token_id: int | None
    context_length: int
    image_recipe: ImageRecipe | None
    created: int


def load_checkpoint(path: Path, dtype: str, device: str, max_context: int | None) -> Checkpoint:
    """Load any image-text-to-text checkpoint in Hugging Face layout.

    Args:
        dtype: "auto" (what the checkpoint says) or a name of torch's.
        device: "auto" (an accelerator if there is one) or a name of torch's.
        max_context: lowers the checkpoint's own context length, tokens.

    Raises:
        EngineStartError: the directory is refused, or is no such checkpoint.
    """
    check_directory(path)
    if dtype != "auto" and dtype not in _DTYPES:
        raise EngineStartError(f"dtype {dtype!r}: choose auto, {', '.join(sorted(_DTYPES))}")
    place = _choose_device(device)
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = AutoProcessor.from_pretrained(path, backend="pil", **options)
        model = AutoModelForImageTextToText.from_pretrained(
            path, dtype=_DTYPES.get(dtype, "auto"), use_safetensors=True, **options
        )
        model.to(device=place)  # type: ignore[call-arg]  # decorated: the checker loses `self`
        model.eval()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        raise EngineStartError(
            f"{path} does not load as an image-text-to-text checkpoint in Hugging Face layout "
            f"({type(error).__name__}: {reason[0][:200] if reason else ''})"
        ) from error
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or getattr(tokenizer, "backend_tokenizer", None) is None:
        raise EngineStartError(f"{path} has no fast tokenizer (tokenizer.json); convert it first")
    if not getattr(processor, "chat_template", None):
        raise EngineStartError(f"{path} has no chat template; add chat_template.jinja to it")
    return Checkpoint(
        model=model,
        processor=processor,
        tokenizer=tokenizer,
        device=place,
        eos_ids=_eos_ids(model, tokenizer),
        image_token_id=_image_token_id(model.config, processor),
        context_length=_context_length(model.config, max_context),
        image_recipe=image_recipe_of(getattr(processor, "image_processor", None)),
        created=int((path / "config.json").stat().st_mtime),
    )


def check_directory(path: Path) -> None:
    """Refuse what could run code: Python files, pickled weights, `auto_map` in any JSON file.

    Raises:
        EngineStartError: with what was found.
    """
    if not (path / "config.json").is_file():
        raise EngineStartError(
            f"{path} has no config.json: not a checkpoint in Hugging Face layout"
        )
    for file in sorted(path.rglob("*")):
        if file.suffix == ".py":
            raise EngineStartError(f"{file} is code: checkpoints that bring code are not loaded")
        if file.suffix in _PICKLES:
            raise EngineStartError(
                f"{file} may be a pickle, which can run code: keep safetensors only"
            )
    if not list(path.glob("*.safetensors")):
        raise EngineStartError(f"{path} has no safetensors weights; convert them first")
    for file in sorted(path.rglob("*config.json")):
        if "auto_map" in _keys_in(_read_json(file)):
            raise EngineStartError(
                f"{file} has an auto_map: checkpoints that bring code are not loaded"
            )


def text_config_of(config: PretrainedConfig) -> PretrainedConfig:
    """Return the language model's part of a configuration."""
    return config.get_text_config(decoder=True)


def image_recipe_of(image_processor: object) -> ImageRecipe | None:
    """Return the fixed CLIP recipe of an image processor; None where it does something else."""
    size = getattr(image_processor, "size", None) or {}
    crop = getattr(image_processor, "crop_size", None) or {}
    bicubic = 3
    if not (
        getattr(image_processor, "do_resize", False)
        and getattr(image_processor, "do_center_crop", False)
        and getattr(image_processor, "resample", None) == bicubic
        and _value(size, "shortest_edge")
        and _value(crop, "height")
        and _value(crop, "width")
    ):
        return None
    return ImageRecipe(
        shortest_edge_px=int(_value(size, "shortest_edge")),
        crop_width_px=int(_value(crop, "width")),
        crop_height_px=int(_value(crop, "height")),
    )


def _value(sizes: object, name: str) -> int:
    """Return an entry of a dict or of transformers' SizeDict; 0 where there is none."""
    value = sizes.get(name) if isinstance(sizes, dict) else getattr(sizes, name, None)
    return value or 0


def _choose_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise EngineStartError(
            f"device {device!r} is none of torch's; try cpu or cuda:0"
        ) from error


def _eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    generation_config = model.generation_config
    found: Any = generation_config.eos_token_id if generation_config is not None else None
    if found is None:
        found = getattr(text_config_of(model.config), "eos_token_id", None)
    if found is None:
        found = tokenizer.eos_token_id
    if found is None:
        return frozenset()
    return frozenset([found] if isinstance(found, int) else found)


def _image_token_id(config: PretrainedConfig, processor: ProcessorMixin) -> int | None:
    for holder in (config, processor):
        for name in ("image_token_id", "image_token_index"):
            found = getattr(holder, name, None)
            if isinstance(found, int):
                return found
    return None


def _context_length(config: PretrainedConfig, max_context: int | None) -> int:
    own = getattr(text_config_of(config), "max_position_embeddings", None)
    if max_context is None:
        return own or _DEFAULT_CONTEXT
    if own is not None and max_context > own:
        raise EngineStartError(f"max_context {max_context}: the model has {own} tokens; lower it")
    return max_context


def _read_json(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineStartError(f"{file} is not readable JSON ({type(error).__name__})") from error


def _keys_in(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _keys_in(item)
