"""8- and 4-bit weights by bitsandbytes: of the language model's layers only.

Vision tower, projector and output layer stay as they are: they are small, and what is lost there is
lost for every token. bitsandbytes matches module names by their full path in transformers 5; a name
that matches nothing quantises everything in silence, so the loaded modules are looked at.
"""

import logging

import torch
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig, PretrainedConfig

from services.worker.engines.base import EngineStartError

_LANGUAGE_MODEL = "language_model"


def quantization_config(name: str, config: PretrainedConfig) -> BitsAndBytesConfig:
    """Return bitsandbytes' options for a value of `WorkerSettings.quantization`.

    NF4 with double quantisation as in QLoRA (arXiv:2305.14314, section 3); LLM.int8()
    (arXiv:2208.07339) with its default threshold.
    """
    kept = parts_beside_language_model(config)
    # one line per call about a cast that is meant, and about a kernel that CPUs do without
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if name == "bnb-int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=name.removeprefix("bnb-"),
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=kept,
    )


def parts_beside_language_model(config: PretrainedConfig) -> list[str]:
    """Return the full module names of vision tower, projector, output layer and the like.

    They are read off the architecture itself, built without memory.

    Raises:
        EngineStartError: it has no part that is called the language model.
    """
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    base = model.base_model_prefix
    inner = dict(getattr(model, base, model).named_children())
    if _LANGUAGE_MODEL not in inner:
        raise EngineStartError(
            "this architecture does not say which part is its language model; "
            "use --quantization none"
        )
    outer = [name for name, _ in model.named_children() if name != base]
    return [f"{base}.{name}" for name in inner if name != _LANGUAGE_MODEL] + outer


def check_quantized(model: torch.nn.Module) -> None:
    """Look at what was quantised.

    Raises:
        EngineStartError: another layer than those of the language model was, or not all of these.
    """
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    kinds = (Linear8bitLt, Linear4bit)
    num_quantized = 0
    for name, module in model.named_modules():
        is_quantized = isinstance(module, kinds)
        is_wanted = f".{_LANGUAGE_MODEL}." in name
        if is_quantized and not is_wanted:
            raise EngineStartError(f"{name!r} was quantised and must not be; use none")
        if is_wanted and type(module) is torch.nn.Linear:
            raise EngineStartError(f"{name!r} was not quantised; use --quantization none")
        num_quantized += is_quantized
    if not num_quantized:
        raise EngineStartError("no layer of the language model was quantised; use none")
