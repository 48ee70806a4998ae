"""Measures a training step with its examples packed, grouped by length, and padded.

The same examples in each step, of lengths as in LLaVA-Med's 60K-IM: 83.6 MiB for 60,000
conversations of 2.9 rounds are 275 tokens of text at four bytes a token, JSON's own text taken
off; around that mean they are drawn log-normally (sigma 0.5, our assumption: lengths themselves
were never published). Each has one image of 256 tokens, whose features are ready. A small LLaVA in
float32 on this CPU; the three take turns, and medians are compared.

Also how fast images are read and preprocessed beside that step, by one process.

Run: python -m benchmarks.training_layouts [--write-page]
"""

import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from transformers import LlavaForConditionalGeneration

from benchmarks.ours import REPOSITORY
from benchmarks.page_sections import replace_section, table
from modeling.tiny import TinySizes, make_tiny_llava
from training.audit import audit
from training.batching import Layout, Lengths, StepPlan
from training.config import TrainConfig
from training.features import compute_features
from training.llava_training import LlavaForTraining
from training.processor import open_processing
from training.rows import Rows
from training.step_data import ImageFiles, StepDataset

PAGE = REPOSITORY / "docs" / "benchmarks.md"
MEAN_TEXT_TOKENS, SIGMA = 275, 0.5
EXAMPLES = 512
PER_STEP = 32
IMAGES = 32
SIZES = TinySizes(text_width=256, text_layers=4, kv_heads=4)
ROWS: dict[Layout, int] = {"packed": 4, "grouped": 8, "plain": 8}
MASKED = "packed, with a mask"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class WithMask(StepDataset):
    """Attention is computed for whole rows, and what lies in other examples is masked."""

    def _spans(self, rows: Rows) -> None:  # noqa: ARG002 - of the method that it replaces
        return None


@app.command()
def bench(
    *,
    steps: Annotated[int, typer.Option(min=1)] = 7,
    write_page: Annotated[
        bool, typer.Option(help="Put the figures into docs/benchmarks.md.")
    ] = False,
) -> None:
    """Train with each layout in turn; print a section of Markdown."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        section = measure(folder, steps)
    print(section)
    if write_page:
        replace_section(PAGE, "training-layouts", section)


def write_data(folder: Path) -> None:
    """Write a checkpoint, images and conversations of words of one token each."""
    make_tiny_llava(folder / "base", image_px=224, sizes=SIZES)
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(IMAGES):
        pixels = rng.integers(0, 255, (600, 800, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.jpg", quality=85)
    mu = np.log(MEAN_TEXT_TOKENS) - SIGMA**2 / 2
    records = []
    for number in range(EXAMPLES):
        length = int(rng.lognormal(mu, SIGMA))
        question, answer = " I" * (length // 3), " I" * (length - length // 3)
        records.append(
            {
                "id": number,
                "image": f"{number % IMAGES}.jpg",
                "conversations": [
                    {"from": "human", "value": f"<image>\n{question}"},
                    {"from": "gpt", "value": answer.strip()},
                ],
            }
        )
    (folder / "records.json").write_text(json.dumps(records), "utf-8")


def measure(folder: Path, steps: int) -> str:
    """Return the section."""
    config = TrainConfig.model_validate(
        {
            "name": "layouts",
            "model": {"path": folder / "base", "precision": "fp32"},
            "train": {"language_model": "full"},
            "data": {
                "files": [folder / "records.json"],
                "image_folder": folder / "images",
                "max_length": 2048,
                "limits": {"truncated": 1.0},
            },
            "batch": {"examples": PER_STEP},
            "optimizer": {"learning_rate": 1e-3},
            "output": {"folder": folder / "out"},
        }
    )
    processing = open_processing(config.model.path)
    table_of_data = audit(config, processing, folder / "run")
    files = ImageFiles(folder / "images", processing)
    llava = LlavaForConditionalGeneration.from_pretrained(config.model.path)
    model = LlavaForTraining.of(llava)
    names = [f"{number}.jpg" for number in range(IMAGES)]
    features = compute_features(model, files, names, folder / "features", "bench")
    model.model.vision_tower.requires_grad_(requires_grad=False)
    data = table_of_data
    lengths = Lengths(data.num_tokens, data.prefix_length, data.image_key, data.prefix_key)
    plan = StepPlan(lengths, PER_STEP, 1, 0, steps)

    def made(layout: Layout, kind: type[StepDataset] = StepDataset) -> StepDataset:
        return kind(
            table=data,
            plan=plan,
            batch=config.batch.model_copy(update={"layout": layout, "rows": ROWS[layout]}),
            row_tokens=2048,
            images=features,
            pad_id=0,
        )

    datasets: dict[str, StepDataset] = {layout: made(layout) for layout in ROWS}
    datasets[MASKED] = made("packed", WithMask)
    seconds: dict[str, list[float]] = {layout: [] for layout in datasets}
    for step in range(steps):
        for layout, dataset in datasets.items():
            seconds[layout].append(train_step(model, dataset, step))
    return section_of(datasets, seconds, files, names)


def train_step(model: LlavaForTraining, dataset: StepDataset, step: int) -> float:
    """Return the seconds of forward and backward of one step, data included."""
    started = time.monotonic()
    share = dataset[step]
    for batch in share.micro_batches:
        (loss,) = model(**batch.inputs(torch.device("cpu")))
        (loss / share.num_targets).backward()
    model.zero_grad()
    return time.monotonic() - started


def section_of(
    datasets: Mapping[str, StepDataset],
    seconds: Mapping[str, list[float]],
    files: ImageFiles,
    names: Sequence[str],
) -> str:
    """Return the figures in words."""
    rows = []
    speeds: dict[str, float] = {}
    for layout, dataset in datasets.items():
        shares = [dataset[step] for step in range(len(seconds[layout]))]
        real = [share.num_tokens for share in shares]
        held = [sum(b.rows.input_ids.numel() for b in share.micro_batches) for share in shares]
        pace = [tokens / each for tokens, each in zip(real, seconds[layout], strict=True)]
        speeds[layout] = statistics.median(pace)
        waste = 1 - sum(real) / sum(held)
        rows.append([layout, str(dataset.batch.rows), f"{waste:.0%}", f"{speeds[layout]:,.0f}"])
    loading_s = statistics.median(
        _seconds_of(datasets["packed"], step) for step in range(len(seconds["packed"]))
    )
    started = time.monotonic()
    for name in names:
        files.read(name)
    images_per_s = len(names) / (time.monotonic() - started)
    per_image = statistics.median(seconds["packed"]) / PER_STEP
    packed, padded = speeds["packed"], speeds["plain"]
    return "\n".join(
        [
            "## Training: packed, grouped and padded rows",
            "",
            "A LLaVA of 2 million weights in float32 on this CPU; lengths as in LLaVA-Med's 60K-IM "
            "(mean 275 tokens of text, log-normal, and 256 of an image), 32 examples a step; "
            "`python -m benchmarks.training_layouts --write-page`, medians of "
            f"{len(seconds['packed'])} steps taken in turn.",
            "",
            table(["layout", "rows at once", "padding", "tokens/s"], rows),
            "",
            f"Packed against padded: {packed / padded:.2f} times the tokens per second (target "
            f"1.5: {'met' if packed >= 1.5 * padded else 'missed'}), against grouped: "
            f"{packed / speeds['grouped']:.2f}. Attention of packed rows is computed example by "
            "example, which grouped and padded rows leave to the mask, as other trainers do; "
            f"packed rows with a mask reach {speeds[MASKED] / padded:.2f} times. One process reads "
            "and "
            f"preprocesses {images_per_s:.0f} images of 800 x 600 px per second; this step takes "
            f"{1 / per_image:.1f} per second. Making a step's rows out of the token file and the "
            f"features is {loading_s / statistics.median(seconds['packed']):.1%} of the step.",
        ]
    )


def _seconds_of(dataset: StepDataset, step: int) -> float:
    started = time.monotonic()
    _ = dataset[step]
    return time.monotonic() - started


if __name__ == "__main__":
    app()
