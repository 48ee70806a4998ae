"""The recipes that come with Galen: their numbers, their comments, and what is no recipe."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from training.config import RECIPES, TrainConfig, read_recipe, recipe_names
from training.errors import TrainingError

NEEDED = (
    "model.path=models/base",
    "data.files=[records.json]",
    "data.image_folder=images",
    "output.folder=models/new",
)
FULL = ("stage2_instruct", "vqa_rad", "vqa_slake", "vqa_pathvqa")
ADAPTERS = ("stage2_lora", "stage2_qlora")

# LLaVA-Med (arXiv:2306.00890), the flags of its published scripts and its README:
# examples of a step, rate, epochs, steps between checkpoints, checkpoints kept.
LLAVA_MED = {
    "stage1_align": (2 * 8 * 8, 2e-3, 1, 2400, 1),
    "stage2_instruct": (1 * 8 * 8, 2e-5, 3, 500, 3),
    # Its README says 3 epochs; its published VQA weights are of 9.
    "vqa_rad": (1 * 8 * 8, 2e-5, 9, 500, 3),
    "vqa_slake": (1 * 8 * 8, 2e-5, 9, 500, 3),
    "vqa_pathvqa": (1 * 8 * 8, 2e-5, 9, 500, 3),
    # The rate of LLaVA-1.5's recipe for LoRA, all else as in stage 2.
    "stage2_lora": (1 * 8 * 8, 2e-4, 3, 500, 3),
    "stage2_qlora": (1 * 8 * 8, 2e-4, 3, 500, 3),
}


def test_the_recipes_are_these() -> None:
    assert set(recipe_names()) == set(LLAVA_MED)


@pytest.mark.parametrize("name", LLAVA_MED)
def test_numbers_equal_the_published_ones(name: str) -> None:
    found = read_recipe(name, NEEDED)

    schedule = found.optimizer
    assert LLAVA_MED[name] == (
        found.batch.examples,
        schedule.learning_rate,
        schedule.epochs,
        found.output.save_every_steps,
        found.output.keep_checkpoints,
    )
    assert (schedule.schedule, schedule.warmup_share, schedule.weight_decay) == ("cosine", 0.03, 0)
    assert (schedule.betas, schedule.epsilon) == ((0.9, 0.999), 1e-8)
    assert schedule.max_gradient_norm == 1.0
    assert (found.model.precision, found.model.tf32) == ("bf16", True)
    assert found.data.max_length == 2048
    assert found.devices.sharding == "full"


@pytest.mark.parametrize("name", LLAVA_MED)
def test_each_recipe_trains_what_llava_med_trains(name: str) -> None:
    train = read_recipe(name, NEEDED).train

    assert train.projector
    assert not train.vision_tower
    language_model = {"stage1_align": "frozen", **dict.fromkeys(FULL, "full")}
    assert train.language_model == language_model.get(name, "lora")


def test_alignment_needs_images_and_trains_the_new_tokens() -> None:
    found = read_recipe("stage1_align", NEEDED)

    assert found.data.requires_images
    assert found.train.new_tokens == ("<im_start>", "<im_end>")


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_are_those_of_llava_1_5(name: str) -> None:
    found = read_recipe(name, NEEDED)

    assert (found.lora.rank, found.lora.alpha, found.lora.dropout) == (128, 256, 0.05)
    assert found.optimizer.projector_learning_rate == 2e-5
    assert found.model.quantisation == ("nf4" if name == "stage2_qlora" else None)


@pytest.mark.parametrize("name", LLAVA_MED)
def test_what_a_user_must_set_is_missing_in_one_line_each(name: str) -> None:
    with pytest.raises(TrainingError) as caught:
        read_recipe(name)

    assert "is not set; add --set" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", LLAVA_MED)
def test_every_key_has_a_comment_above_it_and_its_source_beside_it(name: str) -> None:
    lines = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r"\s*[a-z]\w*:\s*\S", line)]

    assert len(keys) > 35
    for number in keys:
        assert re.match(r"\s*# \w", lines[number - 1]), lines[number]
        assert re.search(r" # \S", lines[number]), lines[number]


@pytest.mark.parametrize("name", LLAVA_MED)
def test_a_recipe_says_every_key_but_those_that_must_be_set(name: str) -> None:
    written = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    needed = {setting.partition("=")[0] for setting in NEEDED}
    lora = set() if name in ADAPTERS else {"lora"}

    known = {
        f"{key}.{inner}" if inner else key
        for key, field in TrainConfig.model_fields.items()
        for inner in (getattr(field.annotation, "model_fields", None) or [""])
        if key != "name" and key not in lora
    }
    assert set(_keys(written)) == known - needed


@pytest.mark.parametrize("name", LLAVA_MED)
def test_the_example_at_the_top_sets_what_is_needed(name: str) -> None:
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    settings = re.findall(r"--set (\S+=\S+)", text.partition("\nseed:")[0])

    assert read_recipe(name, settings).name == name
    assert f"galen train {name} " in text


def test_lines_are_at_most_100_columns() -> None:
    lines = [line for name in recipe_names() for line in _text(name).splitlines()]

    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("optimizer.learning_rat=1", "unknown key optimizer.learning_rat; allowed there: "),
        ("trainer.epochs=1", "unknown key trainer"),
        ("optimizer.epochs=0", "optimizer.epochs"),
        ("data.max_length", "is no key=value"),
        ("batch.layout=padded", "batch.layout"),
        ("optimizer.epochs=.inf", "optimizer.epochs"),
        ("optimizer.betas=[0.9, 1]", "optimizer.betas"),
        ("seed=-1", "seed"),
        ("model.quantisation=nf4", "is for adapters"),
    ],
)
def test_a_wrong_setting_is_one_line(setting: str, said: str) -> None:
    with pytest.raises(TrainingError) as caught:
        read_recipe("stage2_instruct", [*NEEDED, setting])

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_win_over_the_recipe_and_leave_the_rest() -> None:
    found = read_recipe(
        "stage2_instruct",
        [*NEEDED, "optimizer.epochs=0.5", "data.limits.truncated=0.1", "model.path=other"],
    )

    assert found.optimizer.epochs == 0.5
    assert found.data.limits.truncated == 0.1
    assert found.data.limits.malformed == 0.0
    assert found.model.path == Path("other")
    assert found.batch.examples == 64


def test_a_recipe_is_taken_from_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(_text("stage2_lora").replace("rank: 128", "rank: 16"), encoding="utf-8")

    found = read_recipe(str(file), NEEDED)

    assert (found.name, found.lora.rank) == ("mine", 16)


def test_an_unknown_recipe_names_those_there_are() -> None:
    with pytest.raises(TrainingError, match="no recipe 'stage3'; take one of stage1_align, "):
        read_recipe("stage3", NEEDED)


def test_v1_0_goes_on_in_the_layout_it_was_trained_in() -> None:
    assert read_recipe("stage2_instruct", NEEDED).model.conversation is None
    found = read_recipe("stage2_instruct", [*NEEDED, "model.conversation=v0_training"])
    assert found.model.conversation == "v0_training"


def _text(name: str) -> str:
    return (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")


def _keys(values: dict[str, Any]) -> Iterator[str]:
    """Dotted keys of two levels."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from (f"{key}.{inner}" for inner in value)
        else:
            yield key
