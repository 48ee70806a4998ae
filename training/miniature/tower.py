"""The miniature's vision tower, trained on everyday pictures: the stand-in for CLIP.

CLIP learns from 400 million captions; this one learns to name what a caption states (colours,
shape, background, and number, side, place and size of the spots), by throw-away heads: one on the
mean of the patches, so that each patch carries facts of the whole, one on a 4 x 4 grid of them, so
that it knows where things are, and one on each patch, which says whether a spot lies there: without
it spots are hardly counted in the time there is. That is supervised, and not CLIP's contrast of
captions. No scan is seen here. What does *not* live here: the language model's part
(`curriculum.py`).

Shapes: N pictures, B of them in a batch, P patches, S of them along a side, D width, A attributes,
M marks of a patch.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from training.llava_training import tower_features_of
from training.step_data import ImageFiles

ATTRIBUTES = (
    "background", "background_colour", "shape", "shape_colour", "spot_colour",
    "count", "side", "location", "size",
)  # fmt: skip
BATCH = 64
LEARNING_RATE = 1.5e-3
_TRAINED_ON = "shapes-"  # the others are `shapes_test-`
_MARKS = ("a spot's centre", "any of a spot")
_MARK_WEIGHT = 4.0  # of a patch that has it, as few have
_GRID = 4
_HIDDEN = 256
_UNSTATED = -100


class PictureFacts:
    """What is true of each picture, as numbers; pictures kept for questions are left out.

    Args:
        folder: of the generator's everyday world.
    """

    def __init__(self, folder: Path) -> None:
        lines = (folder / "truth.jsonl").read_text("utf-8").splitlines()
        told = (json.loads(line) for line in lines)
        facts = [fact for fact in told if fact["image"].startswith(_TRAINED_ON)]
        self.images = [fact["image"] for fact in facts]
        self.values = {
            name: sorted({fact[name] for fact in facts if fact[name] is not None})
            for name in ATTRIBUTES
        }
        numbers = {
            name: {value: number for number, value in enumerate(values)}
            for name, values in self.values.items()
        }
        self.spots = [(fact["centres_px"], fact["radius_px"]) for fact in facts]
        self.targets_NA = torch.tensor(
            [[numbers[name].get(fact[name], _UNSTATED) for name in ATTRIBUTES] for fact in facts]
        )

    def marks(self, patch_px: int, patches_a_side: int) -> torch.Tensor:
        """Return of each patch whether a spot's centre lies in it, and any of a spot.

        Returns:
            float [N, P, 2] of 0 and 1.
        """
        marks_NSSM = torch.zeros(len(self.spots), patches_a_side, patches_a_side, len(_MARKS))
        from_px = torch.arange(patches_a_side) * float(patch_px)
        for marks_SSM, (centres_px, radius_px) in zip(marks_NSSM, self.spots, strict=True):
            for x, y in centres_px:
                across_S, down_S = ((from_px - at).clamp(min=0) for at in (x, y))
                across_S = torch.maximum(across_S, (x - from_px - patch_px).clamp(min=0))
                down_S = torch.maximum(down_S, (y - from_px - patch_px).clamp(min=0))
                distance_SS = torch.hypot(down_S[:, None], across_S[None])
                marks_SSM[int(y // patch_px), int(x // patch_px), 0] = 1
                marks_SSM[..., 1][distance_SS < radius_px] = 1
        return marks_NSSM.flatten(1, 2)


class Heads(nn.Module):
    """The throw-away heads."""

    def __init__(self, width: int, num_values: list[int]) -> None:
        super().__init__()
        self.num_values = num_values
        self.of_mean = nn.Linear(width, sum(num_values))
        self.of_grid = nn.Sequential(
            nn.Linear(_GRID * _GRID * width, _HIDDEN),
            nn.GELU(),
            nn.Linear(_HIDDEN, sum(num_values)),
        )
        self.of_patch = nn.Linear(width, len(_MARKS))

    def forward(self, features_BPD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the scores of all values, by the mean and by the grid."""
        side = round(features_BPD.shape[1] ** 0.5)
        image_BDSS = features_BPD.transpose(1, 2).unflatten(2, (side, side))
        grid_BDGG = functional.adaptive_avg_pool2d(image_BDSS, _GRID)
        return self.of_mean(features_BPD.mean(1)), self.of_grid(grid_BDGG.flatten(1))

    def loss(
        self, features_BPD: torch.Tensor, targets_BA: torch.Tensor, marks_BPM: torch.Tensor
    ) -> torch.Tensor:
        """Return the mean cross-entropy of all attributes of two heads, and that of the marks."""
        losses = [
            functional.cross_entropy(scores, targets, ignore_index=_UNSTATED)
            for scores_BV in self(features_BPD)
            for scores, targets in zip(
                scores_BV.split(self.num_values, 1), targets_BA.unbind(1), strict=True
            )
        ]
        of_marks = functional.binary_cross_entropy_with_logits(
            self.of_patch(features_BPD), marks_BPM, pos_weight=torch.tensor(_MARK_WEIGHT)
        )
        return torch.stack(losses).mean() + of_marks


def train_tower(
    model: Any,
    images: ImageFiles,
    facts: PictureFacts,
    steps: int,
    seed: int,
    report: Callable[[int, float], None],
) -> dict[str, float]:
    """Train the tower in place.

    Args:
        model: LlavaForConditionalGeneration; its tower alone is changed.
        report: is told step and loss.

    Returns:
        The grid head's accuracy by attribute, on pictures kept back.

    Raises:
        RuntimeError: the loss is not finite.
    """
    torch.manual_seed(seed)
    pixels = torch.stack([images.read(name) for name in facts.images])
    kept_back = max(BATCH, len(pixels) // 50)
    vision = model.config.vision_config
    heads = Heads(vision.hidden_size, [len(v) for v in facts.values.values()])
    tower = model.model.vision_tower.requires_grad_(True)
    marks_NPM = facts.marks(vision.patch_size, vision.image_size // vision.patch_size)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(
        parameters, LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=min(0.3, 60 / steps)
    )
    batches = _batches(len(pixels) - kept_back, np.random.default_rng(seed))
    for step in range(1, steps + 1):
        chosen = next(batches)
        features_BPD = tower_features_of(model, pixels[chosen])
        loss = heads.loss(features_BPD, facts.targets_NA[chosen], marks_NPM[chosen])
        if not torch.isfinite(loss):
            raise RuntimeError(f"the tower's loss is not finite at step {step}; try another seed")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        report(step, loss.item())
    tower.requires_grad_(False)
    last = slice(len(pixels) - kept_back, None)
    return _accuracy(model, heads, pixels[last], facts.targets_NA[last])


def _batches(num: int, rng: np.random.Generator) -> Iterator[torch.Tensor]:
    while True:
        order = torch.from_numpy(rng.permutation(num))
        yield from order[: num - num % BATCH].split(BATCH)


@torch.no_grad()
def _accuracy(
    model: Any, heads: Heads, pixels: torch.Tensor, targets_NA: torch.Tensor
) -> dict[str, float]:
    _, scores_NV = heads(tower_features_of(model, pixels))
    found: dict[str, float] = {}
    for name, scores, targets in zip(
        ATTRIBUTES, scores_NV.split(heads.num_values, 1), targets_NA.unbind(1), strict=True
    ):
        stated = targets != _UNSTATED
        found[name] = float((scores.argmax(1) == targets)[stated].float().mean())
    return found
