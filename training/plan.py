"""`galen train --plan`: memory per card, tokens per step, steps and time, before anything loads.

    galen train stage2_qlora --set model.path=llava-med-v1.5-7b ... --plan --gpus 1xRTX4090

Arithmetic only: no torch, and a preset's name is enough of a checkpoint. What does *not* live here:
bytes (`training_memory.py`), FLOPs and peaks (`flops.py`), what is assumed of data
(`data_statistics.py`), what to do where it does not fit (`plan_advice.py`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from modeling.cards import Card
from modeling.model_shape import ModelShape
from modeling.plan_words import describe_cards, gigabytes, number_of_gb
from training.batching import steps_per_epoch
from training.config import TrainConfig
from training.data_statistics import DataStatistics, longest_statistics, published_statistics
from training.errors import TrainingError
from training.flops import StepFlops, StepWork, peak_tflops, step_flops
from training.plan_advice import find_advice
from training.training_memory import ForwardPass, TrainingMemory, training_memory
from training.weight_counts import WeightCounts, count_weights

UTILISATION = 0.40
"""Share of the cards' peak that is assumed for all arithmetic, recomputation included.

PaLM reports 46 % without recomputation and 58 % with it (arXiv:2204.02311, table 3 and section
4.1); of one card with transformers' own layers less is expected."""

_LEAST_ANSWER_SHARE = 0.25  # of a row, for memory: rows differ from the mean
_IN_WORDS = {
    "frozen": "frozen weights",
    "trained": "trained weights, float32",
    "gradients": "gradients, float32",
    "optimizer": "optimizer",
    "gathered": "layers gathered or unpacked",
    "activations": "activations",
    "logits": "logits at answers",
    "vision": "encoding images",
    "overhead": "process and fragmentation",
}


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What a run would take.

    Args:
        usable_bytes: of the fullest card, now.
        tokens_per_step: positions computed, over all cards; a shared image counts once.
        num_steps: None where neither the number of examples nor `max_steps` is known.
        peak_tflops: of all cards together; None where it is not known.
        utilisation: assumed, of that peak.
        seconds: of all steps; None where steps or peak are not known.
        advice: what would fit, in one line; None where it fits.
    """

    config: TrainConfig
    model: str
    num_weights: int
    cards: tuple[Card, ...]
    counts: WeightCounts
    memory: TrainingMemory
    usable_bytes: int
    statistics: DataStatistics
    tokens_per_step: float
    num_steps: int | None
    flops: StepFlops
    peak_tflops: float | None
    utilisation: float
    seconds: float | None
    advice: str | None

    @property
    def fits(self) -> bool:
        """Whether the fullest card holds it."""
        return self.memory.peak <= self.usable_bytes

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation that the assumed utilisation comes to."""
        return self.utilisation * self.flops.model / self.flops.hardware

    @property
    def tokens_per_s(self) -> float | None:
        """Of all cards together."""
        if self.seconds is None or not self.num_steps:
            return None
        return self.tokens_per_step * self.num_steps / self.seconds


def plan_training(
    config: TrainConfig,
    shape: ModelShape,
    cards: Sequence[Card],
    statistics: DataStatistics | None = None,
    utilisation: float = UTILISATION,
) -> TrainingPlan:
    """Return what a recipe takes on `cards`, all of which it uses.

    Args:
        statistics: None: those of the data that the recipe is named after, else the longest case.

    Raises:
        TrainingError: LoRA is asked for on a layer that there is none of.
    """
    known = statistics or published_statistics(config, shape)
    data = known or longest_statistics(config, shape)
    usable = min(card.free_bytes for card in cards)

    def memory_of(tried: TrainConfig, num_cards: int) -> TrainingMemory:
        return training_memory(shape, tried, forward_pass(tried, shape, data), num_cards)

    work = step_work(config, shape, data)
    flops = step_flops(shape, config, work)
    memory = memory_of(config, len(cards))
    num_steps = count_steps(config, data.num_examples) if known else config.optimizer.max_steps
    peaks = [peak_tflops(card.name, config) for card in cards]
    # All wait for the slowest in every step.
    peak = None if None in peaks else len(peaks) * min(filter(None, peaks))
    seconds = None
    if num_steps is not None and peak is not None:
        seconds = num_steps * flops.hardware / (peak * 1e12 * utilisation)
    return TrainingPlan(
        config=config,
        model=shape.name,
        num_weights=shape.num_weights,
        cards=tuple(cards),
        counts=count_weights(shape, config),
        memory=memory,
        usable_bytes=usable,
        statistics=data,
        tokens_per_step=work.tokens,
        num_steps=num_steps,
        flops=flops,
        peak_tflops=peak,
        utilisation=utilisation,
        seconds=seconds,
        advice=find_advice(config, len(cards), usable, memory_of) if memory.peak > usable else None,
    )


def refuse_impossible(config: TrainConfig, num_cards: int) -> None:
    """Raise TrainingError where a recipe is not for so many cards."""
    if config.optimizer.kind == "adamw_8bit" and num_cards > 1:
        raise TrainingError(
            "optimizer.kind adamw_8bit is for one card (bitsandbytes knows no divided tensors); "
            "take adamw"
        )


def count_steps(config: TrainConfig, num_examples: int) -> int:
    """Return the optimizer steps of a run."""
    if config.optimizer.max_steps is not None:
        return config.optimizer.max_steps
    return math.ceil(config.optimizer.epochs * steps_per_epoch(num_examples, config.batch.examples))


def step_work(config: TrainConfig, shape: ModelShape, data: DataStatistics) -> StepWork:
    """Return what an average step computes; examples of one image share its tokens in a row."""
    examples = config.batch.examples
    together = max(1.0, min(config.data.questions_per_image, data.examples_per_image))
    images = data.images_per_example * examples / together
    saved = (data.images_per_example * examples - images) * shape.image_tokens
    return StepWork(
        tokens=examples * data.mean_tokens - saved,
        answer_tokens=examples * data.mean_answer_tokens,
        images=images,
        attended_tokens=data.mean_tokens,
    )


def forward_pass(config: TrainConfig, shape: ModelShape, data: DataStatistics) -> ForwardPass:
    """Return the most that one card takes through the model at once."""
    row = config.data.max_length
    if config.batch.layout == "packed" and config.batch.row_tokens is not None:
        row = config.batch.row_tokens
    tokens = config.batch.rows * row
    shown = data.images_per_example * shape.image_tokens
    text_share = 1 - min(1.0, shown / data.mean_tokens)
    images = 0
    if data.images_per_example and shape.image_tokens:
        images = config.batch.rows * max(1, row // (shape.image_tokens + 1))
    return ForwardPass(tokens, math.ceil(tokens * max(text_share, _LEAST_ANSWER_SHARE)), images)


def describe(plan: TrainingPlan) -> str:
    """Return the plan in words, several lines."""
    head = (
        f"{plan.config.name}: {plan.model}, {plan.num_weights / 1e9:.2f} billion weights, "
        f"{plan.counts.trained / 1e6:,.1f} million trained, on {describe_cards(plan.cards)}"
    )
    return "\n".join([head, *_memory_lines(plan), *_work_lines(plan), *_time_lines(plan)])


def why_not(plan: TrainingPlan) -> str:
    """Return why a plan does not fit, in one line, with what would."""
    return (
        f"{plan.config.name} with {plan.model} does not fit on {describe_cards(plan.cards)}: it "
        f"takes {gigabytes(plan.memory.peak)} of each card, {_shortage(plan)}"
    )


def _memory_lines(plan: TrainingPlan) -> list[str]:
    lines = ["", "memory per card, GB"]
    for part in fields(plan.memory):
        size = getattr(plan.memory, part.name)
        if size:
            lines.append(f"  {_IN_WORDS[part.name]:<28}{number_of_gb(size):>8}")
    lines.append(f"  {'at most, all at once':<28}{number_of_gb(plan.memory.peak):>8}")
    remaining = plan.usable_bytes - plan.memory.peak
    if plan.fits:
        lines.append(
            f"fits: {gigabytes(plan.usable_bytes)} are free, {gigabytes(remaining)} remain"
        )
    else:
        lines.append(f"does not fit: {_shortage(plan)}")
    return lines


def _shortage(plan: TrainingPlan) -> str:
    missing = plan.memory.peak - plan.usable_bytes
    return (
        f"{gigabytes(plan.usable_bytes)} are free, {gigabytes(missing)} are missing; {plan.advice}"
    )


def _work_lines(plan: TrainingPlan) -> list[str]:
    data, config = plan.statistics, plan.config
    lines = [
        "",
        f"data   {data.mean_tokens:,.0f} tokens per example with its images ({data.source})",
        f"step   {config.batch.examples} examples, {plan.tokens_per_step:,.0f} tokens, "
        f"{plan.flops.model / 1e12:,.0f} TFLOPs of the model"
        + (
            f" and {plan.flops.recomputed / 1e12:,.0f} computed again (gradient checkpointing)"
            if plan.flops.recomputed
            else ""
        ),
    ]
    if plan.num_steps is None:
        lines.append("steps  not known before the data are counted")
    elif config.optimizer.max_steps is not None:
        lines.append(f"steps  {plan.num_steps:,} (optimizer.max_steps)")
    else:
        lines.append(
            f"steps  {plan.num_steps:,} (optimizer.epochs {config.optimizer.epochs:g}, "
            f"{data.num_examples:,} examples)"
        )
    return lines


def _time_lines(plan: TrainingPlan) -> list[str]:
    if plan.peak_tflops is None:
        return [
            "time   no forecast: the peak of these cards is not known; name them (--gpus 1xH200) "
            "or set devices.peak_tflops"
        ]
    if plan.seconds is None or not plan.num_steps:
        return ["time   no forecast without the number of steps"]
    per_step = plan.seconds / plan.num_steps
    return [
        f"time   {plan.seconds / 3600:.1f} h, {per_step:.2f} s a step, "
        f"{plan.tokens_per_s:,.0f} tokens/s, if {plan.utilisation:.0%} of the peak of "
        f"{plan.peak_tflops:,.0f} TFLOPS is reached (assumed; that is an MFU of {plan.mfu:.0%})"
    ]
