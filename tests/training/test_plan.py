"""`galen train --plan`: what fits where, how many steps, how long, and what is said of it."""

import subprocess
import sys
from dataclasses import replace

import pytest

from modeling.cards import parse_cards
from modeling.model_shape import ModelShape, read_shape
from training.config import TrainConfig, read_recipe, recipe_names
from training.data_statistics import DataStatistics
from training.errors import TrainingError
from training.plan import TrainingPlan, describe, plan_training, refuse_impossible, why_not

NEEDED = ("model.path=x", "data.files=[x.json]", "output.folder=y")
V1_5 = read_shape("llava-med-v1.5-7b")
V1_0 = read_shape("llava-med-v1.0-7b")
COUNTED = DataStatistics(1000, mean_tokens=700, mean_answer_tokens=30)


def test_qlora_of_seven_billion_weights_fits_a_card_of_24_gb() -> None:
    found = _plan("stage2_qlora", "1x24GB")

    assert found.fits
    assert found.memory.peak <= 22e9


def test_full_training_of_seven_billion_weights_fits_an_h200() -> None:
    assert _plan("stage2_instruct", "H200").fits


def test_full_training_fits_an_h100_with_moments_in_eight_bits_only() -> None:
    plain = _plan("stage2_instruct", "H100")
    small = _plan("stage2_instruct", "H100", "optimizer.kind=adamw_8bit")

    assert not plain.fits
    assert small.fits
    assert plain.advice == "take --set optimizer.kind=adamw_8bit, or 2 such cards"


@pytest.mark.parametrize("cards", ["24GB", "48GB", "80GB", "2x24GB", "16GB"])
def test_advice_is_right(cards: str) -> None:
    found = _plan("stage2_instruct", cards)
    assert found.advice is not None
    settings, _, more = found.advice.removeprefix("take ").rpartition("or ")

    chosen = settings.rstrip(", ").replace("--set ", "").split()
    assert _plan("stage2_instruct", cards, *chosen).fits
    number = more.split()[0]
    kind = cards.rpartition("x")[2]
    assert _plan("stage2_instruct", f"{number}x{kind}").fits
    assert "\n" not in found.advice


def test_nothing_is_advised_that_is_refused() -> None:
    aligned = _plan("stage1_align", "16GB")
    two = _plan("stage2_instruct", "2x24GB")

    assert "nf4" not in (aligned.advice or "")
    assert "adamw_8bit" not in (two.advice or "")
    with pytest.raises(TrainingError, match="for one card"):
        refuse_impossible(_plan("stage2_instruct", "H100", "optimizer.kind=adamw_8bit").config, 2)


def test_advice_where_nothing_helps_is_larger_cards() -> None:
    found = _plan("stage2_qlora", "1x2GB")

    assert found.advice == "take larger cards or a smaller model"


@pytest.mark.parametrize(("shape", "hours"), [(V1_0, 9), (V1_5, 16)], ids=["v1.0", "v1.5"])
def test_the_curriculum_takes_hours_on_one_h200(shape: ModelShape, hours: float) -> None:
    seconds = 0.0
    for name in ("stage1_align", "stage2_instruct"):
        found = plan_training(_recipe(name), shape, parse_cards("H200"))
        assert found.fits
        assert found.seconds is not None
        seconds += found.seconds

    assert hours / 2 < seconds / 3600 < hours


def test_steps_are_epochs_of_examples_and_the_last_may_be_smaller() -> None:
    found = _plan("stage2_instruct", "H200", "optimizer.epochs=1.5", data=COUNTED)

    assert found.num_steps == 24  # 1500 / 64
    assert _plan("stage2_instruct", "H200", "optimizer.max_steps=7", data=COUNTED).num_steps == 7


def test_tokens_of_a_step_are_those_that_were_counted() -> None:
    found = _plan("stage2_instruct", "H200", data=COUNTED)

    assert found.tokens_per_step == 64 * 700
    assert "700 tokens per example with its images (counted)" in describe(found)


def test_a_shared_image_is_computed_once() -> None:
    shared = replace(COUNTED, examples_per_image=8)
    apart = _plan("vqa_rad", "H200", data=shared)
    together = _plan("vqa_rad", "H200", "data.questions_per_image=4", data=shared)

    assert apart.tokens_per_step - together.tokens_per_step == 48 * 576
    assert together.flops.model < apart.flops.model


def test_data_that_nobody_counted_are_taken_at_their_longest() -> None:
    config = _recipe("stage2_instruct").model_copy(update={"name": "mine"})
    found = plan_training(config, V1_5, parse_cards("H200"))

    assert found.tokens_per_step == 64 * 2048
    assert found.num_steps is None
    assert "not known before the data are counted" in describe(found)


def test_two_cards_take_half_the_time_and_the_slower_one_decides() -> None:
    one, two = _plan("stage1_align", "H100"), _plan("stage1_align", "2xH100")
    mixed = _plan("stage1_align", "H100,A100-80GB")

    assert one.seconds is not None
    assert two.seconds == pytest.approx(one.seconds / 2)
    assert mixed.peak_tflops == 2 * 312


def test_time_counts_recomputation_and_mfu_does_not() -> None:
    plain = _plan("stage1_align", "H200")
    again = _plan("stage1_align", "H200", "model.gradient_checkpointing=true")

    assert plain.mfu == pytest.approx(0.40)
    assert again.flops.model == plain.flops.model
    assert again.seconds is not None
    assert plain.seconds is not None
    assert again.seconds > 1.4 * plain.seconds
    assert again.mfu < 0.40 / 1.4


def test_the_assumed_utilisation_can_be_another() -> None:
    found = plan_training(_recipe("stage1_align"), V1_5, parse_cards("H200"), utilisation=0.2)

    assert found.seconds == pytest.approx(2 * (_plan("stage1_align", "H200").seconds or 0))
    assert "if 20% of the peak" in describe(found)


def test_without_a_known_peak_no_time_is_forecast() -> None:
    found = _plan("stage2_qlora", "24GB")

    assert found.seconds is None
    assert "no forecast: the peak of these cards is not known" in describe(found)
    assert _plan("stage2_qlora", "24GB", "devices.peak_tflops=71").seconds is not None


def test_a_plan_says_what_it_found_and_assumed() -> None:
    said = describe(_plan("stage2_qlora", "RTX4090"))

    for words in (
        "stage2_qlora: llava-med-v1.5-7b, 7.57 billion weights, 356.5 million trained, on 1 x RTX",
        "memory per card, GB",
        "fits: 25.76 GB are free",
        "assumed of LLaVA-Med's published files, nothing was counted",
        "2,814 (optimizer.epochs 3, 60,000 examples)",
        "computed again (gradient checkpointing)",
        "if 40% of the peak of 165 TFLOPS is reached (assumed; that is an MFU of 27%)",
    ):
        assert words in said


def test_a_plan_that_does_not_fit_says_what_is_missing() -> None:
    found = _plan("stage2_instruct", "H100")
    shortage = "85.53 GB are free, 35.74 GB are missing; take --set optimizer.kind=adamw_8bit"

    assert f"does not fit: {shortage}" in describe(found)
    assert f"1 x H100: it takes 121.26 GB of each card, {shortage}" in why_not(found)
    assert "\n" not in why_not(found)


@pytest.mark.parametrize("preset", ["llava-med-v1.0-7b", "llava-1.5-13b", "llava-next-34b"])
@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_plans_every_llava(name: str, preset: str) -> None:
    found = plan_training(_recipe(name), read_shape(preset), parse_cards("64xH200"))

    assert found.fits
    assert found.counts.frozen > 0


def test_a_card_holds_as_many_rows_as_the_recipe_says() -> None:
    one = _plan("stage2_lora", "H200")
    four = _plan("stage2_lora", "H200", "batch.rows=4")

    assert four.memory.activations == 4 * one.memory.activations


def test_planning_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, training.plan; "
        "print(sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.strip() == "[]"


def _recipe(name: str, *settings: str) -> TrainConfig:
    return read_recipe(name, [*NEEDED, *settings])


def _plan(
    name: str, cards: str, *settings: str, data: DataStatistics | None = None
) -> TrainingPlan:
    return plan_training(_recipe(name, *settings), V1_5, parse_cards(cards), data)
