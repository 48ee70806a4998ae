"""Losses and gradients do not depend on the layout, and are those of Hugging Face's own model."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from modeling.prompt import IGNORE_INDEX
from tests.training.small_runs import Workshop, losses_of, processing_of, run, table_of
from training.audit import DataTable
from training.batching import Layout, Lengths, StepPlan
from training.config import TrainConfig
from training.features import compute_features
from training.llava_training import LlavaForTraining
from training.rows import Rows
from training.segment_attention import Span, spans_of
from training.step_data import ImageFiles, ImageSource, MicroBatch, StepDataset

TOLERANCE = 2e-5
"""Of losses near 6 after several float32 steps: sums are taken in another order."""
GRADIENT_TOLERANCE = 2e-5
PLAIN = {"batch__layout": "plain"}


class AttendedOneByOne(StepDataset):
    """Each example is attended alone, however short it is."""

    def _spans(self, rows: Rows) -> tuple[Span, ...]:
        return spans_of(rows)


def steps_of(
    config: TrainConfig,
    table: DataTable,
    layout: Layout,
    *,
    shares: bool = True,
    is_flat: bool = False,
    images: ImageSource | None = None,
    kind: type[StepDataset] = StepDataset,
) -> StepDataset:
    """Return the steps of three questions per image, whatever the layout."""
    keys = table.prefix_key if shares else np.full_like(table.prefix_key, -1)
    lengths = Lengths(table.num_tokens, table.prefix_length, table.image_key, keys)
    processing = processing_of(config)
    return kind(
        table=table,
        plan=StepPlan(lengths, 9, 3, seed=1, total_steps=3),
        batch=config.batch.model_copy(update={"layout": layout, "rows": 1 if is_flat else 2}),
        row_tokens=160,
        images=images or ImageFiles(config.data.image_folder, processing),
        pad_id=processing.processor.tokenizer.pad_token_id,
        is_flat=is_flat,
    )


def load(workshop: Workshop) -> LlavaForTraining:
    model = LlavaForTraining.of(
        LlavaForConditionalGeneration.from_pretrained(
            workshop.base, dtype=torch.float32, attn_implementation="sdpa"
        )
    )
    model.requires_grad_(True)
    model.model.vision_tower.requires_grad_(False)
    return model


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad and p.grad is not None
    }


def curve(
    model: LlavaForTraining, steps: StepDataset
) -> Iterator[tuple[float, dict[str, torch.Tensor]]]:
    """Yield loss and gradients of each step, AdamW in between."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for number in range(len(steps)):
        step = steps[number]
        total = 0.0
        for batch in step.micro_batches:
            (loss,) = model(**batch.inputs(torch.device("cpu")))
            (loss / step.num_targets).backward()
            total += loss.item() / step.num_targets
        yield total, gradients(model)
        optimizer.step()
        optimizer.zero_grad()


def own_curve(
    workshop: Workshop, table: DataTable, steps: StepDataset
) -> Iterator[tuple[float, dict[str, torch.Tensor]]]:
    """Yield the same by Hugging Face's forward: one example at a time, all logits."""
    model = LlavaForConditionalGeneration.from_pretrained(workshop.base, dtype=torch.float32)
    model.model.vision_tower.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for number in range(len(steps)):
        losses: list[torch.Tensor] = []
        num_targets = 0
        for row in steps.plan.examples_of(number).tolist():
            example = table.example(row)
            ids = torch.tensor([example.prompt.token_ids])
            shown = [steps.images.read(name) for name in example.images]
            pixels: Any = {"pixel_values": torch.stack(shown)} if shown else {}
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **pixels).logits
            labels = torch.tensor(example.prompt.labels)
            num_targets += int((labels[1:] != IGNORE_INDEX).sum())
            losses.append(
                functional.cross_entropy(
                    logits[0, :-1], labels[1:], ignore_index=IGNORE_INDEX, reduction="sum"
                )
            )
        loss = torch.stack(losses).sum() / num_targets
        loss.backward()
        yield loss.item(), gradients(model)
        optimizer.step()
        optimizer.zero_grad()


Variant = Callable[[TrainConfig, DataTable], StepDataset]
VARIANTS: dict[str, Variant] = {
    "packed, beginnings shared": lambda c, t: steps_of(c, t, "packed"),
    "packed, nothing shared": lambda c, t: steps_of(c, t, "packed", shares=False),
    "packed, attended one by one": lambda c, t: steps_of(c, t, "packed", kind=AttendedOneByOne),
    "flat": lambda c, t: steps_of(c, t, "packed", is_flat=True),
    "grouped": lambda c, t: steps_of(c, t, "grouped"),
    "plain": lambda c, t: steps_of(c, t, "plain"),
}


@pytest.fixture(scope="module")
def config(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return workshop.recipe(tmp_path_factory.mktemp("losses") / "out")


@pytest.fixture(scope="module")
def table(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> DataTable:
    return table_of(config, tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def expected(
    workshop: Workshop, config: TrainConfig, table: DataTable
) -> list[tuple[float, dict[str, torch.Tensor]]]:
    return list(own_curve(workshop, table, steps_of(config, table, "plain")))


@pytest.mark.parametrize("name", VARIANTS)
def test_losses_and_gradients_are_hugging_faces_on_single_examples(
    workshop: Workshop,
    config: TrainConfig,
    table: DataTable,
    expected: list[tuple[float, dict[str, torch.Tensor]]],
    name: str,
):
    found = list(curve(load(workshop), VARIANTS[name](config, table)))
    assert [loss for loss, _ in found] == pytest.approx([e for e, _ in expected], abs=TOLERANCE)
    assert found[0][0] != pytest.approx(found[-1][0], abs=0.05)  # something was learnt
    (_, first), (_, own) = found[0], expected[0]
    assert first.keys() == own.keys()
    for parameter, gradient in own.items():
        torch.testing.assert_close(
            first[parameter], gradient, atol=GRADIENT_TOLERANCE, rtol=1e-4, msg=parameter
        )


def test_sharing_a_beginning_saves_tokens_and_images(config: TrainConfig, table: DataTable):
    shared = [VARIANTS["packed, beginnings shared"](config, table)[n] for n in range(3)]
    apart = [VARIANTS["packed, nothing shared"](config, table)[n] for n in range(3)]
    assert sum(s.num_targets for s in shared) == sum(s.num_targets for s in apart)
    assert sum(s.num_images for s in shared) < 0.6 * sum(s.num_images for s in apart)
    assert sum(s.num_tokens for s in shared) < sum(s.num_tokens for s in apart)


def widths(batches: tuple[MicroBatch, ...]) -> list[int]:
    return [batch.rows.input_ids.shape[1] for batch in batches]


def test_a_flat_row_is_no_longer_than_allowed(config: TrainConfig, table: DataTable):
    """Nothing is shared there, so each example takes its whole length."""
    steps = replace(steps_of(config, table, "packed", is_flat=True), row_tokens=60)
    for number in range(3):
        assert max(widths(steps[number].micro_batches)) <= 60


def test_attended_tokens_are_the_squares_of_the_lengths(config: TrainConfig, table: DataTable):
    step = steps_of(config, table, "plain")[0]
    lengths = table.num_tokens[steps_of(config, table, "plain").plan.examples_of(0)]
    assert step.attended_tokens == float((lengths.astype(int) ** 2).sum())


def test_features_computed_before_give_bit_equal_losses(
    workshop: Workshop, config: TrainConfig, table: DataTable, tmp_path: Path
):
    model = load(workshop)
    files = ImageFiles(config.data.image_folder, processing_of(config))
    names = [f"{number}.png" for number in range(8)]
    kept = compute_features(model, files, names, tmp_path / "features", "base")
    cached = list(curve(model, steps_of(config, table, "packed", images=kept)))
    computed = list(curve(load(workshop), steps_of(config, table, "packed")))
    assert [loss for loss, _ in cached] == pytest.approx([e for e, _ in computed], abs=1e-6)


LAYOUTS: dict[str, dict[str, Any]] = {
    "grouped": {"batch__layout": "grouped"},
    "plain": PLAIN,
    "other rows": {"batch__rows": 1, "batch__row_tokens": 128},
    "gradient checkpointing": {"model__gradient_checkpointing": True},
    "features computed before": {"data__cache_features": True},
}


@pytest.fixture(scope="module")
def packed_losses(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    config = workshop.recipe(tmp_path_factory.mktemp("packed") / "out")
    run(config)
    return losses_of(config)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_run_has_the_losses_of_a_packed_one(
    workshop: Workshop, packed_losses: list[float], tmp_path: Path, name: str
):
    config = workshop.recipe(tmp_path / "out", **LAYOUTS[name])
    run(config)
    assert losses_of(config) == pytest.approx(packed_losses, abs=TOLERANCE)
    assert packed_losses[-1] < packed_losses[0] - 0.5
