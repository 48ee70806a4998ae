"""A checkpoint as a model in which a recipe's parts are trained and the rest is frozen.

Trained parameters are float32: their updates are far below bfloat16's steps (mixed precision
training, arXiv:1710.03740, section 3.1). Frozen ones keep the type they compute in. What does *not*
live here: cutting a model over several cards (`sharded.py`).
"""

import importlib.util
from collections.abc import Iterator, Set
from typing import Any

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration

from training.config import LoraConfig, TrainConfig
from training.errors import TrainingError
from training.llava_training import LlavaForTraining
from training.processor import LlavaProcessing

_PROJECTOR = "model.multi_modal_projector."
_TOWER = "model.vision_tower."
_AMPERE = (8, 0)
_UNQUANTISED = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]


def uses_flash_attention(config: TrainConfig) -> bool:
    """Whether examples are told apart by the flash-attn kernels.

    Raises:
        TrainingError: it is asked for and not there.
    """
    wanted = config.model.attention
    missing = _missing_for_flash(config)
    if wanted == "flash_attention_2" and missing is not None:
        raise TrainingError(f"model.attention flash_attention_2 needs {missing}; or take auto")
    # Several questions behind one copy of an image are beyond these kernels.
    is_shared = config.data.questions_per_image > 1
    return missing is None and wanted != "sdpa" and not (wanted == "auto" and is_shared)


def _missing_for_flash(config: TrainConfig) -> str | None:
    """Return what flash-attn's kernels lack here (its README, "Requirements"); None: nothing."""
    if importlib.util.find_spec("flash_attn") is None or not torch.cuda.is_available():
        return "a GPU and the package flash-attn (pip install flash-attn --no-build-isolation)"
    if config.model.precision != "bf16":
        return "model.precision bf16"
    if torch.cuda.get_device_capability() < _AMPERE:
        return "a GPU of compute capability 8.0 (Ampere) or newer"
    return None


def load_model(config: TrainConfig, processing: LlavaProcessing) -> Any:
    """Return a `LlavaForTraining`, inside PEFT's model where a recipe trains LoRA."""
    dtype = torch.bfloat16 if config.model.precision == "bf16" else torch.float32
    flash = uses_flash_attention(config)
    loaded = LlavaForConditionalGeneration.from_pretrained(
        config.model.path,
        dtype=dtype,
        attn_implementation="flash_attention_2" if flash else "sdpa",
        local_files_only=True,
        **_quantised(config, dtype),
    )
    model: Any = LlavaForTraining.of(loaded)
    model.requires_grad_(False)
    trained = dict(_trained(model, config))
    for name, parameter in trained.items():
        if not torch.is_floating_point(parameter):
            raise TrainingError(f"{name} is quantised and cannot be trained; train lora")
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    if (rows := new_rows(config, processing)) and config.train.language_model != "full":
        model.train_new_rows(rows)
    if config.train.language_model == "lora":
        return _with_lora(model, config.lora, set(trained))
    return model


def parameter_names(model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the trained parameters by the names that they have without PEFT around."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield plain_name(name), parameter


def plain_name(name: str) -> str:
    """Return a parameter's name without what PEFT puts before it."""
    return name.removeprefix("base_model.model.")


def is_projector(name: str) -> bool:
    """Whether a parameter has the projector's learning rate."""
    return plain_name(name).startswith(_PROJECTOR)


def _quantised(config: TrainConfig, dtype: torch.dtype) -> dict[str, Any]:
    if config.model.quantisation is None:
        return {}
    from transformers import BitsAndBytesConfig  # noqa: PLC0415 - it looks for a GPU

    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=_UNQUANTISED,
    )
    where = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {"quantization_config": quantisation, "device_map": {"": where}}


def _trained(model: Any, config: TrainConfig) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield what a recipe trains, adapters and new rows aside.

    LLaVA-Med v1.0's projector is one layer; the second that conversion puts behind it, since
    transformers' LLaVA has two, does nothing and is left so.
    """
    has_one_layer = _is_identity(model.model.multi_modal_projector)
    for name, parameter in model.named_parameters():
        if name.startswith(f"{_PROJECTOR}linear_2.") and has_one_layer:
            is_trained = False
        elif name.startswith(_PROJECTOR):
            is_trained = config.train.projector
        elif name.startswith(_TOWER):
            is_trained = config.train.vision_tower
        else:
            is_trained = config.train.language_model == "full"
        if is_trained:
            yield name, parameter


def _is_identity(projector: Any) -> bool:
    """Whether a projector's second layer gives what it gets, with no activation before it."""
    weight, bias = projector.linear_2.weight, projector.linear_2.bias
    if projector.act(torch.tensor(-1.0)) != -1 or weight.shape[0] != weight.shape[1]:
        return False
    is_plain = bool(torch.equal(weight, torch.eye(len(weight), dtype=weight.dtype)))
    return is_plain and (bias is None or not bool(bias.any()))


def new_rows(config: TrainConfig, processing: LlavaProcessing) -> list[int]:
    known = processing.processor.tokenizer.get_added_vocab()
    return [known[token] for token in config.train.new_tokens if token in known]


def adapter_config(config: TrainConfig) -> dict[str, Any] | None:
    """Return what PEFT writes beside an adapter; None where a recipe trains none."""
    if config.train.language_model != "lora":
        return None
    found = _peft_config(config.lora).to_dict()
    return {key: sorted(v) if isinstance(v, set) else v for key, v in found.items()} | {
        "base_model_name_or_path": str(config.model.path),
        "inference_mode": True,
        "task_type": "CAUSAL_LM",  # what serves it; a task of PEFT's own would change forward
    }


def _peft_config(lora: LoraConfig) -> Any:
    import peft  # noqa: PLC0415 - slow, and most recipes do without

    layers = "|".join(lora.target_modules)
    return peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # a fraction does as well
        lora_dropout=lora.dropout,
        # the vision tower has layers of the same names
        target_modules=rf"model\.language_model\.(.*\.)?({layers})",
    )


def _with_lora(model: LlavaForTraining, lora: LoraConfig, trained: Set[str]) -> Any:
    """Return the model with adapters; PEFT freezes the rest, but for what is trained beside."""
    import peft  # noqa: PLC0415 - slow, and most recipes do without

    wrapped = peft.get_peft_model(model, _peft_config(lora))
    if not any("lora_" in name for name, _ in wrapped.named_parameters()):
        names = ", ".join(lora.target_modules)
        raise TrainingError(f"lora.target_modules {names} name no layer of the language model")
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name or "new_rows" in name or plain_name(name) in trained:
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    return wrapped
