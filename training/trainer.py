"""Hugging Face's Trainer, taught our steps, our losses and our checkpoints.

The Trainer sees one batch per optimizer step; what it calls a batch is a card's whole share of the
step (`step_data.RankStep`), and the micro-batches in it are added up here. What does *not* live
here: what is trained (`loading.py`), and how a run begins (`run.py`).
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import AutocastKwargs
from safetensors import SafetensorError
from torch import distributed
from torch.utils.data import DataLoader, SequentialSampler
from transformers import PrinterCallback, Trainer, TrainingArguments

from modeling.durable_files import write_json
from training import run_state
from training.config import OptimizerConfig, TrainConfig
from training.errors import TrainingError
from training.loading import is_projector
from training.problems import Problems
from training.sharded import begin_micro_batch
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
        self.remove_callback(PrinterCallback)  # `report` shows each step
        # Each weight is cast where it is used: kept casts of all layers are gigabytes.
        no_cache: Any = AutocastKwargs(cache_enabled=False)
        self.accelerator.autocast_handler = no_cache
        self._config = config
        self._steps = steps
        self._problems = problems
        self._report = report
        self._say = say
        self._unreadable: dict[int, str] = {}
        self._step: RankStep | None = None
        self._seen: dict[str, float] = {}
        self.saved_step: int | None = None
        """Of the newest checkpoint, on all cards the same."""

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
        self._step = inputs
        self._note_unreadable(inputs.unreadable)
        num_targets = self._over_all_cards(torch.tensor(float(inputs.num_targets)))
        scale = self.args.world_size / num_targets.clamp(min=1)  # gradients are averaged over cards
        losses: list[torch.Tensor] = []
        for number, batch in enumerate(inputs.micro_batches, start=1):
            is_last = number == len(inputs.micro_batches)
            begin_micro_batch(model, self._config, is_last=is_last)
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
        raise TrainingError(
            f"the loss of step {step.step + 1} is not finite, so it was not taken; its examples: "
            f"{self._places(records)}; look at them, or lower the learning rate"
        )

    def _places(self, records: Sequence[int]) -> str:
        """Return where records stand, the first few of them."""
        if not records:
            return "on another card"
        places = ", ".join(self._steps.table.records.where(record) for record in records[:8])
        return f"{places} and {len(records) - 8} more" if len(records) > 8 else places

    def _clip_grad_norm(self, model: Any) -> torch.Tensor | None:
        norm = super()._clip_grad_norm(model)
        value = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # type: ignore[union-attr,arg-type]
        if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 (NaN)
            batches = self._step.micro_batches if self._step else ()
            places = self._places([record for batch in batches for record in batch.records])
            raise TrainingError(
                f"the gradient of step {self.state.global_step + 1} is not finite, so it was not "
                f"taken; its examples: {places}; lower the learning rate, or train with "
                "model.precision=fp32"
            )
        self._seen["gradient_norm"] = value
        return norm

    def _note_unreadable(self, found: Iterable[tuple[int, str]]) -> None:
        new = {record: why for record, why in found if record not in self._unreadable}
        self._unreadable |= new
        for record, why in new.items():
            self._problems.add("missing_images", record, why)
        num_new = int(self._over_all_cards(torch.tensor(len(new))))
        if num_new:
            self._problems.count_elsewhere("missing_images", num_new - len(new))
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
                    "params": groups[of_projector, is_decayed],
                    "lr": (settings.projector_learning_rate if of_projector else None)
                    or settings.learning_rate,
                    "weight_decay": settings.weight_decay if is_decayed else 0.0,
                }
                # The first group's rate is the one that is shown: not the projector's.
                for of_projector, is_decayed in sorted(groups)
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
            self._write_parts(partial)
        except (OSError, SafetensorError) as error:
            failure = _disk_error(error)
        if not self._any_failed(failure):
            try:
                if self.args.process_index == 0:
                    run_state.make_whole(folder, step, self._config.output.keep_checkpoints)
            except OSError as error:
                failure = error
            if not self._any_failed(failure):  # all wait here
                self.saved_step = step
                return
        run_state.remove_partial(folder)
        self._say(
            f"no checkpoint at step {step}: {failure or 'another card could not write it'}; "
            "free some space, the next one is tried as planned"
        )

    def _write_parts(self, partial: Path) -> None:
        rank = self.args.process_index
        run_state.write_rank(partial, self.model, self._plain_optimizer, rank)
        write_json(partial / _unreadable_file(rank), list(self._unreadable.items()))
        if rank == 0:
            self.state.log_history = []  # the log has it, and this would grow with each step
            self.state.save_to_json(str(partial / "trainer_state.json"))
            schedule = self.lr_scheduler.state_dict()  # type: ignore[union-attr]
            write_json(partial / "schedule.json", schedule)

    def _any_failed(self, failure: OSError | None) -> bool:
        """Whether this card or another one failed."""
        return bool(self._over_all_cards(torch.tensor(float(failure is not None))))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        run_state.load_trained(
            Path(resume_from_checkpoint), model or self.model, self.args.process_index
        )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder, rank = Path(checkpoint), self.args.process_index
        self.saved_step = run_state.step_of(folder)
        run_state.load_optimizer(folder, self.model, self._plain_optimizer, rank)
        schedule = json.loads((folder / "schedule.json").read_text("utf-8"))
        self.lr_scheduler.load_state_dict(schedule)  # type: ignore[union-attr]
        rates = self.lr_scheduler.get_last_lr()  # type: ignore[union-attr]
        for group, rate in zip(self._plain_optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        kept = json.loads((folder / _unreadable_file(rank)).read_text("utf-8"))
        self._note_unreadable((record, why) for record, why in kept)
        self.state.compute_steps(self.args, self.state.max_steps)  # these may differ now

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            run_state.load_random(Path(checkpoint), self.args.process_index)

    @property
    def _plain_optimizer(self) -> torch.optim.Optimizer:
        return getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate's is around it


def _optimizer(settings: OptimizerConfig) -> Callable[..., torch.optim.Optimizer]:
    if settings.kind == "adamw":
        return lambda *args, **kwargs: torch.optim.AdamW(*args, fused=True, **kwargs)
    import bitsandbytes  # noqa: PLC0415 - it looks for a GPU

    return bitsandbytes.optim.AdamW8bit  # type: ignore[attr-defined]  # it does not export


def _unreadable_file(rank: int) -> str:
    return f"unreadable-{rank:05d}.json"


def _disk_error(error: OSError | SafetensorError) -> OSError:
    """Return what the system said; safetensors wraps it in words."""
    return error if isinstance(error, OSError) else OSError(" ".join(str(error).split()))
