"""Hugging Face's Trainer, taught our steps, our losses and our checkpoints.

The Trainer sees one batch per optimizer step; what it calls a batch is a card's whole share of the
step (`step_data.RankStep`), and the micro-batches in it are added up here. What does *not* live
here: what is trained (`loading.py`), and how a run begins (`run.py`).
"""

import contextlib
import errno
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import AutocastKwargs
from torch import distributed
from torch.utils.data import DataLoader, SequentialSampler
from transformers import Trainer, TrainingArguments

from training import run_state
from training.config import OptimizerConfig, TrainConfig
from training.errors import TrainingError
from training.loading import is_projector
from training.problems import Problems
from training.step_data import RankStep, StepDataset, only_one

StepReport = Callable[[dict[str, float]], None]


class GalenTrainer(Trainer):
    """See the module.

    Args:
        report: is told of each step: loss, gradient_norm, learning_rate, num_tokens, num_images.
        say: one line for the user.
    """

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        config: TrainConfig,
        steps: StepDataset,
        problems: Problems,
        report: StepReport,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(model=model, args=arguments, train_dataset=steps)
        # Each weight is cast where it is used: kept casts of all layers are gigabytes.
        no_cache: Any = AutocastKwargs(cache_enabled=False)
        self.accelerator.autocast_handler = no_cache
        self._config = config
        self._steps = steps
        self._problems = problems
        self._report = report
        self._say = say
        self._unreadable: set[int] = set()
        self._seen: dict[str, float] = {}

    # ------------------------------------------------------------------------------------ data

    def get_train_dataloader(self) -> DataLoader[RankStep]:
        """Return the steps in their order; each card has its own share of them already."""
        workers = self._config.data.workers
        return DataLoader(
            self._steps,
            batch_size=1,
            sampler=SequentialSampler(self._steps),
            collate_fn=only_one,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[RankStep], num_batches: int, device: torch.device
    ) -> tuple[list[RankStep], None]:
        """Return one step."""
        return list(itertools.islice(epoch_iterator, 1)), None

    def _track_num_input_tokens(self, inputs: RankStep) -> None:
        pass  # `report` has them

    def floating_point_ops(self, inputs: RankStep) -> int:  # type: ignore[override]
        """Return 0: they are counted by `flops.py`."""
        return 0

    # -------------------------------------------------------------------------------- one step

    def training_step(  # type: ignore[override]  # its batches are ours
        self, model: Any, inputs: RankStep, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Add up the gradients of a step's micro-batches; returns the step's loss on all cards.

        Raises:
            TrainingError: a loss is not finite, or too many images could not be read.
        """
        model.train()
        self._note_unreadable(inputs)
        num_targets = self._over_all_cards(torch.tensor(float(inputs.num_targets)))
        scale = self.args.world_size / num_targets.clamp(min=1)  # gradients are averaged over cards
        losses: list[torch.Tensor] = []
        for number, batch in enumerate(inputs.micro_batches, start=1):
            with self._reduces_gradients(model, number == len(inputs.micro_batches)):
                (loss,) = model(**batch.inputs(self.args.device))
                self.accelerator.backward(loss * scale)
            losses.append(loss.detach())
        self._refuse_non_finite(inputs, torch.stack(losses))
        loss = self._over_all_cards(torch.stack(losses).sum()) / num_targets.clamp(min=1)
        self._seen = self._counts(inputs) | {"loss": float(loss)}
        return loss

    def _counts(self, step: RankStep) -> dict[str, float]:
        mine = {
            "num_tokens": float(step.num_tokens),
            "num_targets": float(step.num_targets),
            "num_images": float(step.num_images),
            "attended_tokens": step.attended_tokens,
        }
        return dict(
            zip(mine, self._over_all_cards(torch.tensor(list(mine.values()))).tolist(), strict=True)
        )

    def _reduces_gradients(self, model: Any, is_last: bool) -> Any:  # noqa: FBT001
        if hasattr(model, "set_requires_gradient_sync"):  # FSDP2
            model.set_requires_gradient_sync(is_last)
            return contextlib.nullcontext()
        return contextlib.nullcontext() if is_last else self.accelerator.no_sync(model)

    def _over_all_cards(self, value: torch.Tensor) -> torch.Tensor:
        """Return the sum of a small tensor."""
        value = value.to(self.args.device)
        if self.args.world_size > 1:
            distributed.all_reduce(value)
        return value

    def _refuse_non_finite(self, step: RankStep, losses: torch.Tensor) -> None:
        is_wrong = self._over_all_cards((~torch.isfinite(losses)).sum())
        if not bool(is_wrong):
            return
        wrong = (~torch.isfinite(losses)).nonzero().flatten().tolist()
        records = [r for number in wrong for r in step.micro_batches[number].records]
        places = ", ".join(self._steps.table.records.where(record) for record in records[:8])
        more = f" and {len(records) - 8} more" if len(records) > 8 else ""
        raise TrainingError(
            f"the loss of step {step.step + 1} is not finite, so it was not taken; its examples: "
            f"{places or 'on another card'}{more}; look at them, or lower the learning rate"
        )

    def _clip_grad_norm(self, model: Any) -> torch.Tensor | None:
        norm = super()._clip_grad_norm(model)
        value = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # type: ignore[union-attr,arg-type]
        if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 (NaN)
            raise TrainingError(
                f"the gradient of step {self.state.global_step + 1} is not finite, so it was not "
                "taken; lower the learning rate, or train with model.precision=fp32"
            )
        self._seen["gradient_norm"] = value
        return norm

    def _note_unreadable(self, step: RankStep) -> None:
        new = [(r, why) for r, why in step.unreadable if r not in self._unreadable]
        self._unreadable.update(record for record, _ in new)
        for record, why in new:
            self._problems.add("missing_images", record, why)
        if new:
            self._say(f"left out: {self._problems.summary()}")
            self._problems.check_share("missing_images", len(self._steps.table.records))

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self._seen:
            seen = {"step": float(self.state.global_step), **self._seen}
            self._report(seen | {"learning_rate": float(kwargs.get("learning_rate") or 0.0)})
            self._seen = {}
        super()._maybe_log_save_evaluate(*args, **kwargs)

    # -------------------------------------------------------------------------------- optimizer

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return AdamW over the trained parameters, the projector at its own rate."""
        settings, model = self._config.optimizer, model or self.model
        decayed = set(self.get_decay_parameter_names(model))
        groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                key = (is_projector(name), name in decayed)
                groups.setdefault(key, []).append(parameter)
        self.optimizer = _optimizer(settings)(
            [
                {
                    "params": parameters,
                    "lr": (settings.projector_learning_rate if of_projector else None)
                    or settings.learning_rate,
                    "weight_decay": settings.weight_decay if is_decayed else 0.0,
                }
                for (of_projector, is_decayed), parameters in groups.items()
            ],
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.epsilon,
        )
        return self.optimizer

    # ------------------------------------------------------------------------------ checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint that is there whole or not at all; a full disk ends no run."""
        folder, step = Path(str(self.args.output_dir)), self.state.global_step
        partial = run_state.partial_of(folder, step)
        failure: OSError | None = None
        try:
            partial.mkdir(exist_ok=True)
            run_state.write_rank(
                partial, self.model, self._plain_optimizer, self.args.process_index
            )
            if self.args.process_index == 0:
                self.state.save_to_json(str(partial / "trainer_state.json"))
                schedule = self.lr_scheduler.state_dict()  # type: ignore[union-attr]
                run_state.write_json(partial / "schedule.json", schedule)
        except (OSError, RuntimeError) as error:  # safetensors wraps what the system says
            failure = _disk_error(error)
        num_failed = self._over_all_cards(torch.tensor(float(failure is not None)))
        if not float(num_failed):
            if self.args.process_index == 0:
                run_state.make_whole(folder, step, self._config.output.keep_checkpoints)
            self._wait_for_all()
            return
        run_state.remove_partial(folder)
        self._say(
            f"no checkpoint at step {step}: {failure or 'another card could not write it'}; "
            "free some space, the next one is tried as planned"
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        run_state.load_trained(
            Path(resume_from_checkpoint), model or self.model, self.args.process_index
        )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder, rank = Path(checkpoint), self.args.process_index
        run_state.load_optimizer(folder, self.model, self._plain_optimizer, rank)
        schedule = json.loads((folder / "schedule.json").read_text("utf-8"))
        self.lr_scheduler.load_state_dict(schedule)  # type: ignore[union-attr]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            run_state.load_random(Path(checkpoint), self.args.process_index)

    @property
    def _plain_optimizer(self) -> torch.optim.Optimizer:
        return getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate's is around it

    def _wait_for_all(self) -> None:
        if self.args.world_size > 1:
            distributed.barrier()


def _optimizer(settings: OptimizerConfig) -> Callable[..., torch.optim.Optimizer]:
    if settings.kind == "adamw":
        return lambda *args, **kwargs: torch.optim.AdamW(*args, fused=True, **kwargs)
    import bitsandbytes  # noqa: PLC0415 - it looks for a GPU

    return bitsandbytes.optim.AdamW8bit  # type: ignore[attr-defined]  # it does not export


def _disk_error(error: OSError | RuntimeError) -> OSError:
    if isinstance(error, OSError):
        return error
    if any(word in str(error) for word in ("No space", "quota", "too large")):
        return OSError(errno.ENOSPC, " ".join(str(error).split()))
    raise error
