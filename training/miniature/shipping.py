"""Puts a trained miniature where it is served from: weights, its card, and scans to ask about.

What does *not* live here: training and asking it (`curriculum.py`).
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modeling.checkpoint_files import CheckpointError
from modeling.durable_files import write_json
from training.finished import TRAINING_FILE
from training.miniature.curriculum import STAGES, TOWER_STEPS
from training.miniature.report import kind_table, stage_table

SCANS_FILE = "scans.json"
"""Which images lie beside the checkpoint, with questions about each and the right answers."""
CARD_FILE = "README.md"
MOST_BYTES = 12_000_000  # of the weights: they are part of the source
_WEIGHTS = "model.safetensors"
_FOLDER_NAME = "miniature"  # stands for the folder that a run wrote to


def ship(run: Path, questions: str, out: Path) -> None:
    """Write the folder, or leave one that is there as it was.

    Args:
        run: folder of one seed, with `data` and `checkpoints`.
        questions: the file of VQA that it was asked, below `data`.

    Raises:
        CheckpointError: the weights are larger than may be shipped, or `out` is something else.
    """
    if out.exists() and not (out / SCANS_FILE).is_file():
        raise CheckpointError(f"{out} is there already, and holds no shipped model: take another")
    checkpoint = run / "checkpoints" / STAGES[-1].name
    if (size := (checkpoint / _WEIGHTS).stat().st_size) > MOST_BYTES:
        raise CheckpointError(f"{checkpoint} has {size} bytes of weights; {MOST_BYTES} are shipped")
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkpoint, partial)
    training = (partial / TRAINING_FILE).read_text("utf-8")
    nameless = training.replace(str(run.parent.resolve()), _FOLDER_NAME)
    (partial / TRAINING_FILE).write_text(nameless.replace(str(run.parent), _FOLDER_NAME), "utf-8")
    _copy_scans(run / "data", questions, partial)
    found = json.loads((run / "checkpoints" / "results.json").read_text("utf-8"))
    (partial / CARD_FILE).write_text(_card(found, questions, json.loads(training)), "utf-8")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def _copy_scans(data: Path, questions: str, out: Path) -> None:
    """Copy one scan with lesions of each modality: the one that most is asked about."""
    asked: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in json.loads((data / questions).read_text("utf-8")):
        asked[record["image"]].append(record)
    images = (data / questions).parents[1]
    best: dict[str, str] = {}
    for line in (images / "truth.jsonl").read_text("utf-8").splitlines():
        truth = json.loads(line)
        image, modality = truth["image"], truth["modality"]
        is_better = modality not in best or len(asked[image]) > len(asked[best[modality]])
        if image in asked and truth["count"] != "zero" and is_better:
            best[modality] = image
    scans: list[dict[str, Any]] = []
    for modality, image in sorted(best.items()):
        name = f"{modality.lower()}.png"
        shutil.copyfile(images / "images" / image, out / name)
        scans.append({"image": name, "questions": _exchanges(asked[image])})
    write_json(out / SCANS_FILE, {"scans": scans})


def _exchanges(records: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    by_openness = sorted(records, key=lambda record: record["answer_type"] == "CLOSED")
    return [
        {
            "question": record["conversations"][0]["value"].removeprefix("<image>").strip(),
            "answer": record["conversations"][1]["value"],
        }
        for record in by_openness
    ]


def _card(found: Mapping[str, Any], questions: str, training: Mapping[str, Any]) -> str:
    recipes = [f"{stage.name}: {stage.recipe}, {stage.steps} steps" for stage in STAGES]
    versions = ", ".join(f"{name} {value}" for name, value in training["versions"].items())
    seed = training["run"]["recipe"]["seed"]
    return _CARD.format(
        minutes=f"{sum(found['seconds'].values()) / 60:.0f}",
        tower_steps=TOWER_STEPS,
        recipes="; ".join(recipes),
        seed=seed,
        data_hash=training["run"]["data_hash"],
        versions=versions,
        stages=_table(stage_table([found], questions)),
        kinds=_table(kind_table([found], questions)),
    )


def _table(lines: Sequence[str]) -> str:
    return "\n".join(lines)


_CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
language: en
---

# Galen's miniature

A LLaVA of 1.9 million weights that answers short questions about *drawn* scans. It is there so
that the platform can be tried on any machine, and so that tests can tell a right answer from a
wrong one.

**It knows nothing about real images. Nothing that it says is of any use to a patient.**

## What it can be asked

About images as `galen data phantoms` draws them (64 x 64 px; five lie in this folder, with
questions and right answers in `scans.json`):

- Which modality is this? (CT, radiograph, MRI, histology, photograph)
- Which organ is shown?
- How many lesions are there? (zero, one, two)
- On which side are the lesions? In which part are the lesions? What size are the lesions?
- the same to be answered by yes or no: Is the modality CT? Are there any lesions? Is the number
  of lesions two? Are the lesions on the left side? Are the lesions in the upper part? Are the
  lesions small?

Left and right are the picture's. It answers in one or two words; ask at temperature 0.

## How it was made

By `make miniature` in {minutes} minutes on two CPU cores, from random weights: a CLIP tower
taught what everyday pictures show and where spots lie ({tower_steps} steps), then LLaVA-Med's
stages by Galen's own recipes ({recipes}), seed {seed}. All images were drawn and all texts written
by this project; no person's data took part. The last stage's recipe, with the hash of its data
({data_hash}), is in `galen_training.json`. Made with {versions}.

Architecture: `LlavaForConditionalGeneration`; tower and language model have four layers of width
128 and four heads each, patches of 8 px, a vocabulary of 640 entries.

## How well it answers

Scans that no part of the training saw; of each closed question's text half of the answers are
yes, so that guessing gets 50 %. *On noise*: each image was replaced by noise.

{stages}

{kinds}

Closed accuracy: the right one of yes and no is said. Open recall: the share of the right answer's
words that are said. Counting is its weak spot.
"""
