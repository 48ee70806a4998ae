"""FLOPs of a step against those that torch counts in a real, tiny LLaVA; peaks and MFU."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlavaForConditionalGeneration

from modeling.model_shape import ModelShape, read_shape
from modeling.tiny import IMAGE_ID, TinySizes, make_tiny_llava
from tests.training.trainable_copies import trainable_copy
from training.config import TrainConfig, read_recipe
from training.flops import StepFlops, StepWork, mfu, peak_tflops, step_flops

NEEDED = ("model.path=x", "data.files=[x.json]", "output.folder=y")
NUM_ROWS, NUM_TEXT, NUM_ANSWERS, NUM_PATCHES = 2, 48, 20, 16
TOKENS = NUM_PATCHES + NUM_TEXT
# Of one example each: every token attends within its own row.
WORK = StepWork(NUM_ROWS * TOKENS, NUM_ROWS * NUM_ANSWERS, NUM_ROWS, TOKENS)
RANK = 8


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = TinySizes(text_layers=4)
    return make_tiny_llava(tmp_path_factory.mktemp("flops") / "tiny", sizes=sizes)


@pytest.fixture(scope="module")
def shape(checkpoint: Path) -> ModelShape:
    return read_shape(str(checkpoint))


@pytest.fixture(scope="module")
def base(checkpoint: Path) -> LlavaForConditionalGeneration:
    # torch counts no fused attention of a CPU; written out, it is two products.
    return LlavaForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    )


@pytest.mark.parametrize("name", ["stage1_align", "stage2_instruct", "stage2_lora"])
def test_flops_of_a_step_equal_those_that_torch_counts(
    name: str, shape: ModelShape, base: LlavaForConditionalGeneration
) -> None:
    config = _recipe(name, "model.gradient_checkpointing=false")
    forward, both = _counted(trainable_copy(base, config))

    found = step_flops(shape, config, WORK)

    assert found.forward == pytest.approx(forward, rel=0.005)
    assert found.model == pytest.approx(both, rel=0.005)
    assert found.recomputed == 0


def test_a_trained_tower_takes_three_times_its_forward(
    shape: ModelShape, base: LlavaForConditionalGeneration
) -> None:
    config = _recipe("stage2_instruct", "train.vision_tower=true")
    _, both = _counted(trainable_copy(base, config))

    # The last layer of the tower is computed, but the features come from the one before it.
    assert step_flops(shape, config, WORK).model == pytest.approx(both, rel=0.02)


def test_cached_features_save_the_tower(shape: ModelShape) -> None:
    plain = step_flops(shape, _recipe("stage1_align"), WORK)
    cached = step_flops(shape, _recipe("stage1_align", "data.cache_features=true"), WORK)

    assert cached.forward < plain.forward
    assert cached.backward == plain.backward


def test_seven_billion_weights_take_six_flops_per_token_and_weight_in_full() -> None:
    shape = read_shape("llava-1.5-7b")
    work = StepWork(tokens=1000, answer_tokens=1000, images=0, attended_tokens=0)
    decoder = shape.elements("matrices") + shape.elements("head")

    full = step_flops(shape, _recipe("stage2_instruct"), work)
    aligned = step_flops(shape, _recipe("stage1_align"), work)

    assert full.model == 6 * decoder * 1000
    assert full.recomputed == 2 * shape.elements("matrices") * 1000
    assert aligned.model == 4 * decoder * 1000
    assert aligned.recomputed == 0  # that recipe keeps its activations


def test_recomputation_takes_time_but_does_not_count_for_mfu(shape: ModelShape) -> None:
    found = step_flops(shape, _recipe("stage2_instruct"), WORK)

    assert found.hardware > found.model
    assert found == StepFlops(found.forward, found.backward, found.hardware - found.model)


@pytest.mark.parametrize(
    ("card", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("A100-40GB", 312),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA GeForce RTX 3090", 71),
        ("RTX4090", 165.2),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA RTX A1000", None),
        ("24 GB", None),
        ("CPU", None),
    ],
)
def test_peaks_are_known_by_the_names_of_cards(card: str, tflops: float | None) -> None:
    assert peak_tflops(card, _recipe("stage2_instruct")) == tflops


def test_peaks_follow_the_precision_and_what_the_recipe_says() -> None:
    single = _recipe("stage2_instruct", "model.precision=fp32")
    exact = _recipe("stage2_instruct", "model.precision=fp32", "model.tf32=false")
    said = _recipe("stage2_instruct", "devices.peak_tflops=50")

    assert peak_tflops("H100", single) == 989.4 / 2
    assert peak_tflops("H100", exact) is None
    assert peak_tflops("24 GB", said) == 50


def test_mfu_is_work_per_second_over_the_peak() -> None:
    assert mfu(model_flops=200e12, seconds=2, tflops_of_all_cards=400) == 0.25


def _recipe(name: str, *settings: str) -> TrainConfig:
    return read_recipe(name, [*NEEDED, *settings, f"lora.rank={RANK}"])


def _counted(model: LlavaForConditionalGeneration) -> tuple[int, int]:
    """Return torch's count of the forward pass, and of forward and backward."""
    ids = torch.randint(4, 200, (NUM_ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    ids[:, :NUM_PATCHES] = IMAGE_ID
    pixels = torch.zeros(NUM_ROWS, 3, 56, 56)
    with FlopCounterMode(display=False) as counter:
        hidden = model.model(input_ids=ids, pixel_values=pixels, use_cache=False)[0]
        logits = model.lm_head(hidden[:, -NUM_ANSWERS:])
        forward = counter.get_total_flops()
        logits.sum().backward()
    return forward, counter.get_total_flops()
