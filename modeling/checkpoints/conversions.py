"""The conversions as a user starts them: open, check, say what will be, write behind a bar.

What does *not* live here: options (`convert_command.py`) and what is converted into what.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from shlex import quote

from rich.filesize import decimal

from modeling.checkpoint_files import CheckpointError
from modeling.checkpoints import delta as differences
from modeling.checkpoints import to_v1
from modeling.checkpoints.describe import model_lines
from modeling.checkpoints.hf_layout import HfModel, outputs_of, write_model
from modeling.checkpoints.job import Job
from modeling.checkpoints.llava_med_v1 import V1Options, read_v1, refuse_other_kinds
from modeling.checkpoints.llava_med_v15 import V15Options, read_v15, with_tower_difference
from modeling.checkpoints.model_files import CopiedFiles, read_config, read_copied_files
from modeling.checkpoints.output_folder import (
    Destination,
    Recipe,
    partial_of,
    read_manifest,
    refuse_existing,
)
from modeling.checkpoints.progress_bar import ProgressBar
from modeling.checkpoints.tensor_source import TensorSource, open_tensors
from modeling.checkpoints.tensor_writer import Output, plan_shards
from modeling.checkpoints.towers import read_tower

_OTHER_TYPE = (
    "a number is too large for this type, or a source is damaged; convert with --dtype bfloat16 or "
    "float32, or copy the source again"
)


def apply_delta(base: Path, delta: Path, job: Job) -> None:
    """Add a delta to its base; raises CheckpointError."""
    refuse_existing(job.out)
    ours, theirs = open_tensors(base), open_tensors(delta)
    _refuse_unread_types(ours, theirs)
    outputs = list(differences.merged_outputs(ours, theirs))
    expected = differences.expected_base(theirs)
    details = [f"base: not checked now; the delta was made from the one with hash {expected}"]
    if expected is None:
        details = ["base: cannot be checked"]
        _note(f"unverified base: {delta} has no manifest that says which base it was made from")
    _note_left_out(read_copied_files(delta))
    to_check = differences.bytes_to_check(ours, theirs)
    _do(
        job,
        outputs,
        to_check,
        lambda to: differences.apply_delta(ours, theirs, to),
        details if job.is_dry_run else (),
        f"galen convert v1 {quote(str(job.out))} --tower CLIP-VIT-LARGE-PATCH14 --out DIR",
    )


def make_delta(base: Path, target: Path, job: Job) -> None:
    """Subtract a base from a model; raises CheckpointError."""
    refuse_existing(job.out)
    ours, theirs = open_tensors(base), open_tensors(target)
    _refuse_unread_types(ours, theirs)
    outputs = list(differences.delta_outputs(ours, theirs))
    _note_left_out(read_copied_files(target))
    to_check = differences.bytes_to_check(ours, theirs)
    _do(job, outputs, to_check, lambda to: differences.make_delta(ours, theirs, to))


def convert_v1(checkpoint: Path, tower: Path | None, options: V1Options, job: Job) -> None:
    """Convert LLaVA-Med v1.0; raises CheckpointError."""
    refuse_existing(job.out)
    source = open_tensors(checkpoint)
    _refuse_unread_types(source)
    refuse_other_kinds(source, read_config(checkpoint))
    if tower is None:
        raise CheckpointError(
            "v1.0 has no vision tower of its own: give --tower DIR, a folder with "
            "openai/clip-vit-large-patch14 (or BiomedCLIP, if it was trained with it)"
        )
    vision = read_tower(tower)
    _refuse_unread_types(vision.source)
    model = read_v1(source, vision, options)
    _convert("v1", model, options, {"checkpoint": source, "vision_tower": vision.source}, job)


def convert_v15(checkpoint: Path, tower: Path | None, options: V15Options, job: Job) -> None:
    """Convert LLaVA-Med v1.5; raises CheckpointError."""
    refuse_existing(job.out)
    source = open_tensors(checkpoint)
    stock = None if tower is None else read_tower(tower)
    _refuse_unread_types(source, *(() if stock is None else (stock.source,)))
    model = with_tower_difference(read_v15(source, stock, options), source, stock)
    sources = {"checkpoint": source}
    if options.vision_tower == "stock" and stock is not None:
        sources["vision_tower"] = stock.source
    _convert("v15", model, options, sources, job)


def convert_to_v1(checkpoint: Path, job: Job) -> None:
    """Convert back into v1.0's layout; raises CheckpointError."""
    refuse_existing(job.out)
    source = open_tensors(checkpoint)
    _refuse_unread_types(source)
    _note_left_out(to_v1.read_original(checkpoint))
    _do(job, list(to_v1.v1_outputs(source)), 0, lambda to: to_v1.convert_to_v1(source, to))


def _convert(
    command: str,
    model: HfModel,
    options: V1Options | V15Options,
    sources: dict[str, TensorSource],
    job: Job,
) -> None:
    for note in model.notes:
        _note(note)
    _note_left_out(read_copied_files(sources["checkpoint"].path))
    recipe = Recipe(command, {**asdict(options), "dtype": model.dtype}, sources, _OTHER_TYPE)
    details = list(model_lines(model))
    following = f"galen up --model {quote(str(job.out))}"
    _do(job, outputs_of(model), 0, lambda to: write_model(model, recipe, to), details, following)


def _do(
    job: Job,
    outputs: Sequence[Output],
    bytes_to_check: int,
    convert: Callable[[Destination], None],
    details: Sequence[str] = (),
    following: str = "",
) -> None:
    """Say what would be done, or do it and say what may be done `following`."""
    num_bytes = sum(output.num_bytes for output in outputs)
    num_files = len(plan_shards(outputs, job.shard_bytes))
    if job.is_dry_run:
        print(f"would write {job.out}:")
        print(f"  {len(outputs)} tensors, {decimal(num_bytes)}, in {num_files} file(s)")
        for line in details:
            print(f"  {line}")
        return
    for line in details:
        _note(line)
    if (partial := partial_of(job.out)).is_dir():
        _note(f"{partial} is there: what is finished in it is kept")
    with ProgressBar(bytes_to_check + num_bytes) as progress:
        convert(Destination(job.out, progress, job.shard_bytes))
    manifest = read_manifest(job.out)
    print(f"{job.out} is ready; sha256 {manifest['result']['hash'] if manifest else '?'}")
    if following:
        print(f"next: {following}")


def _refuse_unread_types(*sources: TensorSource) -> None:
    for source in sources:
        source.refuse_unread_types()


def _note_left_out(files: CopiedFiles) -> None:
    for note in files.notes:
        _note(note)


def _note(text: str) -> None:
    print(f"galen: note: {text}", file=sys.stderr)
