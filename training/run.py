"""One training run from its checks to the finished checkpoint, on one card or as one of several.

Everything that can be wrong is said before the model is loaded. A run that was interrupted goes on
from its last checkpoint when the same command is given again; with other data or settings it is
refused. What does *not* live here: the command line (`command.py`).
"""

import importlib.metadata
import importlib.util
import json
import math
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed import is_torchelastic_launched
from transformers import TrainingArguments, set_seed

from modeling.cards import Card, main_memory
from modeling.checkpoint_files import open_checkpoint, sampled_fingerprint
from modeling.checkpoints.output_folder import tool
from modeling.durable_files import write_json
from modeling.model_shape import ModelShape, read_shape
from training import run_state
from training.audit import DataTable, audit
from training.batching import Lengths, StepPlan
from training.config import TrainConfig
from training.errors import TrainingError
from training.features import FeatureFile, compute_features
from training.finished import gather_trained, refuse_taken, write_finished
from training.flops import peak_tflops
from training.loading import adapter_config, load_model, uses_flash_attention
from training.plan import count_steps, plan_training, why_not
from training.processor import LlavaProcessing, open_processing
from training.progress import LOG_FILE, RunProgress, drop_later_lines
from training.sharded import shard
from training.step_data import ImageFiles, ImageSource, StepDataset
from training.trainer import GalenTrainer

RUN_FILE = "run.json"
_UNCHANGED_BY = {  # settings that may differ when a run goes on: they decide no number
    "data": {"workers"},
    "devices": {"peak_tflops"},
    "output": {"save_every_steps", "keep_checkpoints", "log_every_steps", "report_to"},
}
_PATIENCE_S = 6 * 3600
"""How long cards wait for the first one, which looks at the data and computes features."""
_LIBRARIES = ("torch", "transformers", "accelerate", "peft", "bitsandbytes", "safetensors")


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
    if fresh and arguments.process_index == 0:
        shutil.rmtree(folder)
        folder.mkdir()
    table = _audit_in_turn(config, processing, folder, arguments)
    shape = read_shape(str(config.model.path))
    prepared = _Prepared(config, processing, table, shape, arguments)
    arguments.warmup_steps = math.ceil(config.optimizer.warmup_share * prepared.total_steps)
    identity = _identity(prepared)
    checkpoint = _to_resume(folder, identity)
    _refuse_what_does_not_fit(prepared)
    if arguments.process_index == 0:
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
    base = str(identity["base"]["fingerprint"])
    images = _image_source(ready, model, base, is_resumed=checkpoint is not None)
    steps = _steps(ready, images)
    shard(model, config, arguments.device)
    trainer = GalenTrainer(
        model, arguments, config, steps, ready.table.problems, progress, progress.say
    )
    with progress:
        if checkpoint is not None:
            if is_first:
                _remove_damaged(ready.folder, checkpoint, progress)
            progress.say(f"goes on behind step {run_state.step_of(checkpoint)}")
            progress.start(run_state.step_of(checkpoint))
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    newest = run_state.checkpoints_in(ready.folder)
    if not newest or run_state.step_of(newest[-1]) != trainer.state.global_step:
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
    dtype = getattr(torch, config.output.dtype) if config.output.dtype else None
    write_finished(
        config.model.path,
        trained,
        config.output.folder,
        facts,
        dtype=dtype,
        adapter_config=adapter_config(config),
    )


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
    plain.to(ready.arguments.device)
    with ready.arguments.main_process_first(local=False, desc="features"):
        if ready.arguments.process_index == 0:
            names = list(dict.fromkeys(_image_names(ready.table)))
            made_of = f"{base} {config.data.image_folder}"
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
    return TrainingArguments(
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
        tf32=config.model.tf32 if has_gpu else None,
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


def _identity(ready: _Prepared) -> dict[str, Any]:
    """Return all that decides a run's numbers."""
    config = ready.config
    settings = config.model_dump(mode="json", exclude=_UNCHANGED_BY)
    return {
        "recipe": settings,
        "data_hash": ready.table.data_hash,
        "num_examples": len(ready.table),
        "total_steps": ready.total_steps,
        "base": {
            "name": config.model.path.resolve().name,
            "fingerprint": sampled_fingerprint(open_checkpoint(config.model.path)),
        },
        "num_cards": ready.arguments.world_size,
    }


def _to_resume(folder: Path, identity: Mapping[str, Any]) -> Path | None:
    """Return the checkpoint to go on from; None: the run begins.

    Raises:
        TrainingError: there is a run of other data or settings, or nothing of it is whole.
    """
    kept = folder / RUN_FILE
    found = run_state.checkpoints_in(folder)
    if not found:
        return None
    if not kept.is_file():
        raise TrainingError(
            f"{folder} holds checkpoints and no {RUN_FILE} that says of what run; put it back, "
            "take another output.folder, or begin anew with --fresh"
        )
    before = json.loads(kept.read_text("utf-8"))
    now = json.loads(json.dumps(identity))
    differing = sorted(
        key
        for key in {**_flat(before), **_flat(now)}
        if _flat(before).get(key) != _flat(now).get(key)
    )
    if differing:
        key = differing[0].removeprefix("recipe.")
        was, is_now = _flat(before).get(differing[0]), _flat(now).get(differing[0])
        raise TrainingError(
            f"{folder} holds a run with other settings: {key} was {was!r}, now {is_now!r}; "
            "set it back to go on, take another output.folder, or begin anew with --fresh"
        )
    whole = [path for path in found if run_state.is_undamaged(path, identity["num_cards"])]
    if not whole:
        raise TrainingError(
            f"{found[-1]} is damaged and no older checkpoint is there to go on from; begin anew "
            "with --fresh (output.keep_checkpoints 2 would have kept one)"
        )
    return whole[-1]


def _remove_damaged(folder: Path, checkpoint: Path, progress: RunProgress) -> None:
    """Remove what stands behind the checkpoint that a run goes on from."""
    for path in run_state.checkpoints_in(folder):
        if run_state.step_of(path) > run_state.step_of(checkpoint):
            shutil.rmtree(path)
            progress.say(f"{path.name} is damaged; it was removed")


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = value
    return flat


def _refuse_absent_reporters(config: TrainConfig) -> None:
    for name in config.output.report_to:
        if importlib.util.find_spec(name) is None:
            raise TrainingError(
                f"output.report_to {name} needs the package {name}, which is not installed: "
                f"pip install {name}, or unset it"
            )


def _refuse_what_does_not_fit(ready: _Prepared) -> None:
    """Raise TrainingError where the plan says that the cards' memory is short."""
    if ready.config.optimizer.kind == "adamw_8bit" and ready.arguments.world_size > 1:
        raise TrainingError(
            "optimizer.kind adamw_8bit is for one card (bitsandbytes knows no divided tensors); "
            "take adamw"
        )
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


def versions() -> dict[str, Any]:
    """Return what code and which libraries make the weights."""
    installed: dict[str, str] = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"tool": tool(), "commit": _commit(), "versions": installed}


def _commit() -> str | None:
    """Return the commit of this program's source; None: it was not run from a checkout."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return found.stdout.strip() or None
