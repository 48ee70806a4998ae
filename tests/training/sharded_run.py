"""A few steps of training, on one rank or as one of several: the program of test_sharded.py.

    torchrun --nproc-per-node 2 -m tests.training.sharded_run CHECKPOINT OUT CASE...

Each case writes OUT/CASE.json and OUT/CASE.safetensors (the trained tensors, whole).
"""

import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import distributed
from torch.distributed.tensor import DTensor
from torch.utils.data import Dataset
from transformers import TrainingArguments, set_seed

from modeling.prompt import TokenisedPrompt
from modeling.tiny import IMAGE_ID, PAD_ID
from training import run_state
from training.batching import micro_batches
from training.config import TrainConfig
from training.errors import TrainingError
from training.finished import gather_trained
from training.loading import load_model, parameter_names
from training.processor import open_processing
from training.rows import RowExample, make_rows
from training.segment_attention import spans_of
from training.sharded import shard
from training.step_data import MicroBatch, RankStep, StepDataset
from training.trainer import GalenTrainer

NUM_STEPS = 3
EXAMPLES_PER_STEP = 5  # an odd number: one rank has an empty micro-batch at the end
NUM_PATCHES = 16
IMAGE_PX = 56
_FULL = {"language_model": "full"}
CASES: Mapping[str, Mapping[str, Any]] = {
    "projector": {"train": {}},
    "full": {"train": _FULL},
    "tower": {"train": _FULL | {"vision_tower": True}, "checkpointing": True},
    "lora": {"train": {"language_model": "lora"}},
    "copies": {"train": _FULL, "sharding": "none"},
    "bf16": {"train": _FULL, "precision": "bf16", "checkpointing": True},
    "bf16_projector": {"train": {}, "precision": "bf16"},
    "nan": {"train": {}},
}
"""What is said in them: `_config`."""


def _config(checkpoint: Path, out: Path, name: str) -> TrainConfig:
    case = CASES[name]
    return TrainConfig.model_validate(
        {
            "name": name,
            "model": {
                "path": checkpoint,
                "precision": case.get("precision", "fp32"),
                "attention": "sdpa",
                "gradient_checkpointing": case.get("checkpointing", False),
            },
            "train": case["train"],
            "lora": {
                "rank": 4,
                "alpha": 8,
                "dropout": 0,
                "target_modules": ["q_proj", "v_proj", "down_proj"],
            },
            "data": {"files": [out / "none.json"], "workers": 0},
            "batch": {"examples": EXAMPLES_PER_STEP, "layout": "plain"},
            # Adam's steps hide the gradients' sizes unless epsilon is near them
            "optimizer": {"learning_rate": 2e-3, "epsilon": 1e-3, "max_gradient_norm": 0.5},
            "devices": {"sharding": case.get("sharding", "full")},
            "output": {"folder": out / name},
        }
    )


@dataclass(frozen=True, slots=True)
class _Steps(Dataset[RankStep]):
    """Random examples, some without an image, dealt to the ranks as the product does."""

    rank: int
    num_ranks: int

    def __len__(self) -> int:
        return NUM_STEPS

    def __getitem__(self, step: int) -> RankStep:
        rows = [(step * EXAMPLES_PER_STEP + n,) for n in range(EXAMPLES_PER_STEP)]
        mine = micro_batches(rows, 1, self.num_ranks)[self.rank]
        alone = step % 2 == 1  # with a mask, and each example attended alone, in turn
        batches = tuple(self._micro_batch([n for (n,) in batch], alone) for batch in mine)
        return RankStep(step, batches, ())

    @staticmethod
    def _micro_batch(numbers: list[int], alone: bool) -> MicroBatch:
        examples = [_example(number) for number in numbers]
        rows = make_rows([[example] for example in examples], PAD_ID)
        images = [_image(number) for number in numbers if number % 2 == 0]
        return MicroBatch(
            rows,
            torch.stack(images) if images else None,
            "pixel_values",
            (),
            is_flat=False,
            spans=spans_of(rows) if alone else None,
        )


def _example(number: int) -> RowExample:
    drawn = random.Random(number)
    patches = [IMAGE_ID] * NUM_PATCHES if number % 2 == 0 else []
    question, answer = (
        [drawn.randrange(4, 400) for _ in range(drawn.randrange(3, 20))] for _ in range(2)
    )
    prompt = TokenisedPrompt(
        [1, *patches, *question, *answer],
        [False] * (1 + len(patches) + len(question)) + [True] * len(answer),
    )
    return RowExample(prompt, images=(0,) if patches else ())


def _image(number: int) -> torch.Tensor:
    return torch.randn((3, IMAGE_PX, IMAGE_PX), generator=torch.Generator().manual_seed(number))


def run(checkpoint: Path, out: Path, name: str) -> dict[str, Any]:
    """Train one case; returns what the test looks at, and writes the trained tensors."""
    config = _config(checkpoint, out, name)
    arguments = TrainingArguments(
        output_dir=str(out / f"{name}.training"),
        num_train_epochs=1,
        per_device_train_batch_size=1,
        learning_rate=config.optimizer.learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=config.optimizer.max_gradient_norm,
        bf16=config.model.precision == "bf16",
        use_cpu=True,
        ddp_backend="gloo" if distributed.is_torchelastic_launched() else None,
        gradient_checkpointing=config.model.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        save_strategy="no",
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    set_seed(config.seed)
    model = load_model(config, open_processing(checkpoint, has_template=False))
    if config.train.language_model == "lora":
        _draw_adapters(model)
    shard(model, config, arguments.device)
    steps = cast("StepDataset", _Steps(arguments.process_index, arguments.world_size))
    seen: list[dict[str, float]] = []
    trainer = GalenTrainer(model, arguments, config, steps, cast("Any", None), seen.append, print)
    result: dict[str, Any] = {
        "shares": _shares(model),
        "plain": [n for n, p in parameter_names(model) if not isinstance(p.data, DTensor)],
        "error": "",
    }
    if name == "nan":
        _spoil(trainer)
    try:
        trainer.train()
    except TrainingError as error:
        result["error"] = str(error)
    kind = type(trainer.model_wrapped).__name__
    result |= {"steps": seen, "wrapped": kind, "is_resumed_equal": _write_and_read(trainer, out)}
    whole = gather_trained(trainer.model, 1.0, keeps=arguments.process_index == 0)
    if arguments.process_index == 0:
        save_file(
            {k: v.contiguous() for k, v in whole.tensors.items()}, out / f"{name}.safetensors"
        )
    return result


def _draw_adapters(model: Any) -> None:
    """Let B differ from 0, too: A has no gradient else."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)


def _shares(model: Any) -> dict[str, float]:
    """Return, of each parameter, how much this rank holds."""
    parameters = {name: p.data for name, p in model.named_parameters()}
    return {name: _local(p).numel() / p.numel() for name, p in parameters.items()}


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _spoil(trainer: GalenTrainer) -> None:
    """Let the gradient of one rank be infinite."""
    original: Callable[..., torch.Tensor] = trainer.training_step

    def spoilt(model: Any, inputs: RankStep, num_items_in_batch: Any = None) -> torch.Tensor:
        loss = original(model, inputs, num_items_in_batch)
        if trainer.args.process_index == trainer.args.world_size - 1:
            next(_local_gradients(model)).fill_(float("inf"))
        return loss

    trainer.training_step = spoilt


def _local_gradients(model: Any) -> Iterator[torch.Tensor]:
    for parameter in model.parameters():
        if parameter.grad is not None:
            yield _local(parameter.grad)


def _write_and_read(trainer: GalenTrainer, out: Path) -> bool:
    """Write this rank's checkpoint, spoil what it holds, read it; whether all is as before."""
    rank, model = trainer.args.process_index, trainer.model
    optimizer = trainer._plain_optimizer
    folder = out / f"{trainer._config.name}-checkpoint"
    folder.mkdir(exist_ok=True)
    run_state.write_rank(folder, model, optimizer, rank)
    before = _everything(model, optimizer)
    with torch.no_grad():
        for tensor in _everything(model, optimizer, is_copied=False).values():
            tensor.fill_(7)
    run_state.load_trained(folder, model, rank)
    run_state.load_optimizer(folder, model, optimizer, rank)
    after = _everything(model, optimizer)
    is_same = before.keys() == after.keys() and all(
        a.shape == after[name].shape and torch.equal(a, after[name]) for name, a in before.items()
    )
    for parameter in optimizer.state:  # the optimizer can go on
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return is_same


def _everything(
    model: Any, optimizer: torch.optim.Optimizer, *, is_copied: bool = True
) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found[name] = parameter.detach()
            for kind, value in optimizer.state.get(parameter, {}).items():
                found[f"{name}/{kind}"] = value
    return {k: _local(v).clone() if is_copied else _local(v) for k, v in found.items()}


def main(argv: list[str]) -> None:
    """Run the cases, and say that all was well by the exit code."""
    checkpoint, out, *names = argv
    for name in names:
        result = run(Path(checkpoint), Path(out), name)
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        (Path(out) / f"{name}-{rank}.json").write_text(json.dumps(result), "utf-8")
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
