"""One training run from its checks to the finished checkpoint, on one card or as one of several.

Everything that can be wrong is said before the model is loaded. A run that was interrupted goes on
from its last checkpoint when the same command is given again; with other data or settings it is
refused. What does *not* live here: the command line (`command.py`).
"""

import importlib.util
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.distributed import is_torchelastic_launched
from transformers import TrainingArguments, set_seed
from transformers.utils.import_utils import is_torch_tf32_available

from modeling.cards import Card, main_memory
from modeling.durable_files import write_json
from modeling.model_shape import ModelShape, read_shape
from training import run_state
from training.audit import DataTable, audit
from training.batching import Lengths, StepPlan
from training.config import TrainConfig
from training.errors import TrainingError
from training.features import FeatureFile, compute_features
from training.finished import gather_trained, refuse_taken, write_result
from training.flops import peak_tflops
from training.loading import load_model, uses_flash_attention
from training.plan import count_steps, plan_training, refuse_impossible, why_not
from training.processor import LlavaProcessing, open_processing
from training.progress import LOG_FILE, RunProgress, drop_later_lines
from training.provenance import versions
from training.resuming import (
    RUN_FILE,
    agreed,
    checkpoint_to_resume,
    identity_of,
    remove_damaged,
)
from training.sharded import shard
from training.step_data import ImageFiles, ImageSource, StepDataset
from training.trainer import GalenTrainer

_PATIENCE_S = 6 * 3600
"""How long cards wait for the first one, which looks at the data and computes features."""


def run_folder(config: TrainConfig) -> Path:
    """Return where a run keeps its state: beside what it makes."""
    out = config.output.folder
    return out.parent / f"{out.name}.training"


def train(config: TrainConfig, *, fresh: bool = False) -> Path:
    """Train, and return the finished checkpoint's folder.

    Args:
        fresh: begin anew though there is a run to go on with; what it kept is removed.

    Raises:
        TrainingError: something does not fit together; nothing was changed.
        CheckpointError: the base or the output folder cannot be used.
    """
    refuse_taken(config.output.folder)
    _refuse_absent_reporters(config)
    folder = run_folder(config)
    processing = open_processing(
        config.model.path, has_template=config.model.conversation is not None
    )
    arguments = _arguments(config, folder)
    table = _audit_in_turn(config, processing, folder, arguments)
    shape = read_shape(str(config.model.path))
    prepared = _Prepared(config, processing, table, shape, arguments)
    arguments.warmup_steps = math.ceil(config.optimizer.warmup_share * prepared.total_steps)
    rank, num_cards = arguments.process_index, arguments.world_size
    identity = identity_of(config, table, prepared.total_steps, num_cards)
    find = partial(checkpoint_to_resume, folder, identity)
    checkpoint = None if fresh else agreed(find, rank, num_cards)
    _refuse_what_does_not_fit(prepared)
    if rank == 0:
        if fresh:
            run_state.remove_all(folder)
        run_state.remove_partial(folder)
        write_json(folder / RUN_FILE, identity)
        drop_later_lines(folder / LOG_FILE, run_state.step_of(checkpoint) if checkpoint else 0)
    return _run(prepared, identity, checkpoint)


@dataclass(frozen=True, slots=True)
class _Prepared:
    config: TrainConfig
    processing: LlavaProcessing
    table: DataTable
    shape: ModelShape
    arguments: TrainingArguments

    @property
    def folder(self) -> Path:
        return run_folder(self.config)

    @property
    def total_steps(self) -> int:
        return count_steps(self.config, len(self.table))


def _run(ready: _Prepared, identity: Mapping[str, Any], checkpoint: Path | None) -> Path:
    config, arguments = ready.config, ready.arguments
    is_first = arguments.process_index == 0
    set_seed(config.seed)
    model = load_model(config, ready.processing)
    progress = RunProgress(
        config,
        ready.shape,
        ready.folder / LOG_FILE,
        ready.total_steps,
        _peak_of_all(config, arguments.world_size),
        writes=is_first,
    )
    progress.say(
        f"{len(ready.table)} examples, {ready.total_steps} steps; {ready.table.problems.summary()}"
    )
    base = f"{identity['base']['fingerprint']} {identity['base']['processing']}"
    images = _image_source(ready, model, base, is_resumed=checkpoint is not None)
    steps = _steps(ready, images)
    shard(model, config, arguments.device)
    trainer = GalenTrainer(
        model, arguments, config, steps, ready.table.problems, progress, progress.say
    )
    with progress:
        if checkpoint is not None:
            if is_first:
                remove_damaged(ready.folder, checkpoint, progress.say)
            progress.say(f"goes on behind step {run_state.step_of(checkpoint)}")
        progress.start(0 if checkpoint is None else run_state.step_of(checkpoint))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.saved_step != trainer.state.global_step:
        trainer._save_checkpoint(trainer.model, None)
    _finish(ready, trainer, identity)
    progress.say(f"{config.output.folder} is done: galen up --model {config.output.folder}")
    return config.output.folder


def _finish(ready: _Prepared, trainer: GalenTrainer, identity: Mapping[str, Any]) -> None:
    config = ready.config
    is_first = ready.arguments.process_index == 0
    lora = config.lora
    trained = gather_trained(trainer.model, lora.alpha / lora.rank, keeps=is_first)
    if not is_first:
        return
    facts = {"run": dict(identity), "problems": dict(ready.table.problems.counts), **versions()}
    write_result(config, trained, config.output.folder, facts)


def _steps(ready: _Prepared, images: ImageSource) -> StepDataset:
    config, table = ready.config, ready.table
    lengths = Lengths(table.num_tokens, table.prefix_length, table.image_key, table.prefix_key)
    plan = StepPlan(
        lengths,
        config.batch.examples,
        config.data.questions_per_image,
        config.seed,
        ready.total_steps,
    )
    tokenizer = ready.processing.processor.tokenizer
    return StepDataset(
        table=table,
        plan=plan,
        batch=config.batch,
        row_tokens=config.batch.row_tokens or config.data.max_length,
        images=images,
        pad_id=tokenizer.pad_token_id or 0,
        rank=ready.arguments.process_index,
        num_ranks=ready.arguments.world_size,
        is_flat=uses_flash_attention(config),
    )


def _image_source(ready: _Prepared, model: Any, base: str, *, is_resumed: bool) -> ImageSource:
    config = ready.config
    files = ImageFiles(config.data.image_folder, ready.processing)
    if not config.data.cache_features:
        return files
    folder = ready.folder / "features"
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    with ready.arguments.main_process_first(local=False, desc="features"):
        if ready.arguments.process_index == 0:
            names = list(dict.fromkeys(_image_names(ready.table)))
            made_of = f"{base} {config.data.image_folder}"
            plain.model.vision_tower.to(ready.arguments.device)
            compute_features(plain, files, names, folder, made_of, keeps_unreadable=is_resumed)
    return FeatureFile(folder)


def _image_names(table: DataTable) -> Iterator[str]:
    seen: set[int] = set()
    for number, key in enumerate(table.image_key.tolist()):
        if key >= 0 and key not in seen:
            seen.add(key)
            yield from table.example(number).images


def _audit_in_turn(
    config: TrainConfig, processing: LlavaProcessing, folder: Path, arguments: TrainingArguments
) -> DataTable:
    """The first card looks at the data; the others read what it kept."""
    with arguments.main_process_first(local=False, desc="audit"):
        return audit(config, processing, folder)


def _arguments(config: TrainConfig, folder: Path) -> TrainingArguments:
    settings = config.optimizer
    has_gpu = torch.cuda.is_available()
    folder.mkdir(parents=True, exist_ok=True)
    arguments = TrainingArguments(
        output_dir=str(folder),
        seed=config.seed,
        per_device_train_batch_size=1,
        num_train_epochs=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule
        if settings.schedule != "constant"
        else "constant_with_warmup",
        max_grad_norm=settings.max_gradient_norm,
        bf16=config.model.precision == "bf16",
        tf32=config.model.tf32 if has_gpu and is_torch_tf32_available() else None,
        use_cpu=not has_gpu,
        ddp_backend="gloo" if is_torchelastic_launched() and not has_gpu else None,
        ddp_find_unused_parameters=False,
        gradient_checkpointing=config.model.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        save_strategy="no" if config.output.save_every_steps is None else "steps",
        save_steps=config.output.save_every_steps or 1,
        save_only_model=True,  # the rest is written by us, too (`trainer.py`)
        ddp_timeout=_PATIENCE_S,
        logging_steps=config.output.log_every_steps,
        logging_nan_inf_filter=False,
        report_to=list(config.output.report_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    # One process has one card; of several that it sees, the Trainer would split each batch.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments


def _refuse_absent_reporters(config: TrainConfig) -> None:
    for name in config.output.report_to:
        if importlib.util.find_spec(name) is None:
            raise TrainingError(
                f"output.report_to {name} needs the package {name}, which is not installed: "
                f"pip install {name}, or unset it"
            )


def _refuse_what_does_not_fit(ready: _Prepared) -> None:
    """Raise TrainingError where the plan says that the cards' memory is short."""
    refuse_impossible(ready.config, ready.arguments.world_size)
    cards = [_card(ready.arguments)] * ready.arguments.world_size
    plan = plan_training(ready.config, ready.shape, cards, ready.table.statistics())
    if not plan.fits:
        raise TrainingError(why_not(plan))


def _card(arguments: TrainingArguments) -> Card:
    if not torch.cuda.is_available():
        memory = main_memory()
        return replace(memory, free_bytes=memory.free_bytes // arguments.world_size)
    free, total = torch.cuda.mem_get_info(arguments.device)
    return Card(torch.cuda.get_device_name(arguments.device), total, free)


def _peak_of_all(config: TrainConfig, num_cards: int) -> float | None:
    if not torch.cuda.is_available():
        return config.devices.peak_tflops
    each = peak_tflops(torch.cuda.get_device_name(), config)
    return None if each is None else each * num_cards
