"""The planner's arithmetic against what is allocated: weights, caches, activations, shards."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import infer_auto_device_map
from accelerate.utils import get_balanced_memory
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, DynamicCache, PreTrainedModel

from modeling.checkpoint_files import open_checkpoint
from modeling.memory_forecast import (
    Layout,
    kv_bytes_per_token,
    needed_bytes,
    overhead_bytes,
    weight_bytes,
)
from modeling.model_shape import (
    group_weights,
    preset_config,
    preset_names,
    read_shape,
    shape_of_config,
    shape_of_files,
)
from modeling.sharding import sharded_sizes
from modeling.tiny import IMAGE_ID, TinySizes, make_tiny_llava
from services.worker.engines.checkpoint import LoadOptions, load_model
from services.worker.engines.model_runner import ModelRunner
from services.worker.engines.slot_cache import SlotCache
from tests.support.allocations import PeakOfTensors

SIZES = {
    "tiny": TinySizes(),
    "mid": TinySizes(text_width=512, text_layers=12, heads=8, kv_heads=4, init_std=0.02),
}


@pytest.fixture(scope="module", params=list(SIZES))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("planned") / request.param
    return make_tiny_llava(out, sizes=SIZES[request.param])


def meta_model(preset: str) -> PreTrainedModel:
    """A preset's model as transformers builds it, without memory."""
    options = preset_config(preset)
    config = CONFIG_MAPPING[options.pop("model_type")](**options)
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


# --------------------------------------------------------------------------------- weights


def test_configuration_and_headers_agree(checkpoint: Path) -> None:
    files = open_checkpoint(checkpoint)
    assert shape_of_config(files.config, "tiny").weights == shape_of_files(files).weights


@pytest.mark.parametrize("preset", preset_names())
def test_presets_have_the_weights_that_transformers_builds(preset: str) -> None:
    shape, model = read_shape(preset), meta_model(preset)
    built = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    is_tied = bool(preset_config(preset)["tie_word_embeddings"])
    assert shape.weights == group_weights(built, is_tied=is_tied)
    assert shape.num_weights == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("model_type", ["llava", "llava_next", "gemma3", "qwen2_5_vl"])
def test_what_a_configuration_leaves_out_is_the_librarys_default(model_type: str) -> None:
    config = CONFIG_MAPPING[model_type]()
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    shape = shape_of_config({"model_type": model_type}, model_type)
    assert shape.num_weights == sum(p.numel() for p in model.parameters())
    assert sharded_sizes({"model_type": model_type}) == sharded_sizes(config.to_dict())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_what_is_allocated(checkpoint: Path, dtype: Any) -> None:
    model = load_model(checkpoint, LoadOptions(dtype=dtype, device="cpu"))
    expected = weight_bytes(shape_of_files(open_checkpoint(checkpoint)), Layout(dtype=dtype))
    assert sum(p.nbytes for p in model.parameters()) == expected


@pytest.mark.parametrize("quantization", ["bnb-int8", "bnb-nf4", "bnb-fp4"])
def test_quantized_weights_are_what_is_allocated(checkpoint: Path, quantization: Any) -> None:
    load = LoadOptions(dtype="bfloat16", device="cpu", quantization=quantization)
    model = load_model(checkpoint, load)
    allocated = sum(p.nbytes for p in model.parameters())
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            allocated += state.absmax.nbytes + state.state2.absmax.nbytes
        scales = getattr(parameter, "SCB", None)
        if scales is not None:
            allocated += scales.nbytes
    layout = Layout(dtype="bfloat16", quantization=quantization)
    expected = weight_bytes(shape_of_files(open_checkpoint(checkpoint)), layout)
    assert allocated == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("preset", ["llava-med-v1.5-7b", "llava-1.5-13b", "llava-next-34b"])
@pytest.mark.parametrize("num_cards", [2, 3, 4])
def test_a_device_map_fills_no_card_more_than_was_said(preset: str, num_cards: int) -> None:
    shape = read_shape(preset)
    model: Any = meta_model(preset).to(torch.bfloat16)  # type: ignore[arg-type]  # its decorator
    model.tie_weights()
    whole = sum(p.nbytes for p in model.parameters())
    kept_whole: Any = list(model._no_split_modules or ())
    room = get_balanced_memory(
        model, dict.fromkeys(range(num_cards), whole), no_split_module_classes=kept_whole
    )
    places: Any = infer_auto_device_map(model, room, no_split_module_classes=kept_whole)
    weights, layers = [0] * num_cards, [0] * num_cards
    for module, card in places.items():
        inside = (p for name, p in model.named_parameters() if f"{name}.".startswith(f"{module}."))
        weights[card] += sum(p.nbytes for p in inside)
        layers[card] += ".layers." in module and "language_model" in module
    layout = Layout(device_map="auto", num_cards=num_cards)
    said = weight_bytes(shape, layout)
    assert 0.8 * said <= max(weights) <= said
    per_layer = kv_bytes_per_token(shape, Layout()) // shape.layers
    assert max(layers) * per_layer <= kv_bytes_per_token(shape, layout)


# --------------------------------------------------------------------- caches and activations


def test_a_token_takes_what_the_cache_allocates(checkpoint: Path) -> None:
    shape = shape_of_files(open_checkpoint(checkpoint))
    model = load_model(checkpoint, LoadOptions(dtype="float32", device="cpu"))
    prefilled = DynamicCache()
    with torch.inference_mode():
        model(input_ids=torch.arange(4, 104)[None], past_key_values=prefilled, use_cache=True)
    cache = SlotCache(shape.layers, max_rows=4, max_positions=512)
    cache.add_row(prefilled)
    allocated = sum(each.key_RHCD.nbytes + each.value_RHCD.nbytes for each in cache._layers)
    rows, positions = cache._capacity
    assert allocated == rows * positions * kv_bytes_per_token(shape, Layout(dtype="float32"))


@pytest.mark.parametrize(
    ("quantization", "context", "rows", "images"),
    [
        ("none", 1024, 2, 16),
        pytest.param("none", 512, 8, 4, marks=pytest.mark.long),
        pytest.param("none", 128, 16, 0, marks=pytest.mark.long),
        pytest.param("bnb-nf4", 256, 2, 4, marks=pytest.mark.long),
    ],
)
def test_running_full_takes_no_more_than_was_said(
    checkpoint: Path, quantization: Any, context: int, rows: int, images: int
) -> None:
    shape = shape_of_files(open_checkpoint(checkpoint))
    options = LoadOptions(dtype="float32", device="cpu", quantization=quantization)
    model = load_model(checkpoint, options)
    words = context - images * shape.image_tokens - 3
    ids = torch.tensor([[IMAGE_ID] * (images * shape.image_tokens) + [7] * words])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if images:
        inputs["pixel_values"] = torch.rand(images, 3, 56, 56)
    with PeakOfTensors() as taken:
        runner = ModelRunner(model, rows, context)
        for _ in range(rows):
            runner.add_row(runner.prefill(inputs))
        for _ in range(3):
            runner.decode([7] * rows)
    layout = Layout(dtype="float32", quantization=quantization, is_cpu=True)
    said = needed_bytes(shape, layout, context, rows)
    said -= weight_bytes(shape, layout) + overhead_bytes(layout)
    assert taken.peak_bytes <= said <= 4 * taken.peak_bytes
