"""The whole curriculum in small: tower, general base, stage 1, stage 2, fine-tuning.

The stages are Galen's own recipes (`training/recipes`), run by the same trainer; only what a small
model and two cores ask for is set otherwise, in `STAGES`. What does *not* live here: the pictures
(`galen data phantoms`) and the report (`report.py`).
"""

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from modeling.durable_files import write_json
from modeling.tiny import write_checkpoint
from training.config import read_recipe
from training.errors import TrainingError
from training.miniature.answers import Answer, Answerer, score
from training.miniature.blank_model import make_blank
from training.miniature.tower import PictureFacts, train_tower
from training.processor import open_processing
from training.run import run_folder, train
from training.step_data import ImageFiles

_TEXTS = (
    "shapes/captions.json", "shapes/qa.json", "shapes/text_only.json",
    "phantoms/alignment.json", "phantoms/instruct.json", "phantoms/vqa/train.json",
)  # fmt: skip
_TEXTS_EACH = 4000  # records that the tokenizer learns from
_EVERYWHERE = {
    "model.precision": "fp32",  # not every CPU is faster in bfloat16; some are ten times slower
    "model.gradient_checkpointing": False,
    "data.max_length": 160,
    "data.workers": 0,
    "data.cache_features": True,
    "batch.rows": 64,
    "optimizer.betas": [0.9, 0.98],
    "output.save_every_steps": None,
}


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the curriculum.

    Args:
        recipe: of `training/recipes`.
        files: below the generator's folder.
        images: likewise.
        settings: what differs from the recipe, beside `_EVERYWHERE`.
        steps: of the optimizer.
    """

    name: str
    recipe: str
    files: tuple[str, ...]
    images: str
    settings: dict[str, Any]
    steps: int


_ON_SHAPES = ("shapes/captions.json", "shapes/qa.json", "shapes/text_only.json")
STAGES = (
    Stage(
        "base", "stage2_instruct", _ON_SHAPES, "shapes/images",
        {
            "batch.examples": 320,
            "batch.row_tokens": 320,
            "data.questions_per_image": 12,
            "optimizer.learning_rate": 1.5e-3,
        },
        steps=130,
    ),
    Stage(
        "stage1", "stage1_align", ("phantoms/alignment.json",), "phantoms/images",
        {"batch.examples": 64, "batch.row_tokens": 208, "optimizer.learning_rate": 2e-3},
        steps=180,
    ),
    Stage(
        "stage2", "stage2_instruct", ("phantoms/instruct.json",), "phantoms/images",
        {
            "data.max_length": 208,
            "batch.examples": 32,
            "batch.row_tokens": 208,
            "optimizer.learning_rate": 1e-3,
        },
        steps=150,
    ),
    Stage(
        "vqa", "vqa_rad", ("phantoms/vqa/train.json",), "phantoms/images",
        {
            "batch.examples": 96,
            "batch.row_tokens": 320,
            "data.questions_per_image": 12,
            "optimizer.learning_rate": 1.25e-3,
            "optimizer.betas": [0.9, 0.95],
        },
        steps=520,
    ),
)  # fmt: skip
TOWER_STEPS = 1200


@dataclass(frozen=True, slots=True)
class Plan:
    """How long each part is.

    Args:
        data: what `galen data phantoms` wrote.
        share: of all steps; the test suite takes a part of them.
    """

    data: Path
    out: Path
    seed: int = 0
    share: float = 1.0

    def steps(self, whole: int) -> int:
        """Return the steps of a part."""
        return max(1, round(self.share * whole))


def run_curriculum(plan: Plan, questions: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Run all of it, and return what was found after each stage.

    What an interrupted run finished is kept: the same call goes on behind it.

    Args:
        questions: file of VQA below the data's folder, which all stages are asked.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    found = _read(plan.out / "results.json")
    now = _settings_hash(plan)
    if found.setdefault("settings", now) != now:
        raise TrainingError(
            f"{plan.out} holds a curriculum of other settings, data or share of the steps: remove "
            "it, or take another --out"
        )
    checkpoint = _once(found, "tower", plan, lambda: _make_tower(plan, say), say)
    for stage in STAGES:
        before = checkpoint
        checkpoint = _once(
            found, stage.name, plan, lambda s=stage, b=before: _train(s, b, plan), say
        )
        kinds = (False, True) if stage.name == "vqa" else (False,)
        for shows_noise in kinds:
            key = f"{stage.name}{' on noise' if shows_noise else ''} {questions}"
            if key not in found["scores"]:
                started = time.monotonic()
                answers = ask(checkpoint, plan.data / questions, shows_noise=shows_noise)
                found["scores"][key] = asdict(score(answers))
                found["seconds"][key] = time.monotonic() - started
                write_json(plan.out / "results.json", found)
                (plan.out / f"answers-{key.replace('/', '-').replace(' ', '-')}l").write_text(
                    "".join(json.dumps(asdict(answer)) + "\n" for answer in answers), "utf-8"
                )
            scores = found["scores"][key]
            say(f"{key}: closed {scores['closed']:.1%}, open {scores['open']:.1%}")
    return found


def _settings_hash(plan: Plan) -> str:
    """Return a hash of all that decides what is learnt."""
    data = (plan.data / "manifest.json").read_text("utf-8")
    settings = [asdict(stage) for stage in STAGES], _EVERYWHERE, TOWER_STEPS, plan.share, plan.seed
    return hashlib.sha256(json.dumps([settings, data]).encode()).hexdigest()


def note_seconds(plan: Plan, part: str, seconds: float) -> None:
    """Keep how long a part took that is not run here."""
    plan.out.mkdir(parents=True, exist_ok=True)
    found = _read(plan.out / "results.json")
    found["seconds"][part] = seconds
    write_json(plan.out / "results.json", found)


def ask(checkpoint: Path, questions: Path, *, shows_noise: bool = False) -> list[Answer]:
    """Return a checkpoint's answers to a file of questions about phantoms."""
    images = questions.parents[1] / "images"
    return Answerer(checkpoint, images, shows_noise=shows_noise).answer(questions)


def _once(
    found: dict[str, Any],
    name: str,
    plan: Plan,
    make: Callable[[], Path],
    say: Callable[[str], None],
) -> Path:
    checkpoint = plan.out / name
    if not checkpoint.is_dir():
        started = time.monotonic()
        make()
        found["seconds"][name] = time.monotonic() - started
        write_json(plan.out / "results.json", found)
        say(f"{name}: {found['seconds'][name]:.0f} s")
    return checkpoint


def _make_tower(plan: Plan, say: Callable[[str], None]) -> Path:
    blank = plan.out / "blank"
    if not blank.is_dir():
        make_blank(blank, _texts(plan.data), plan.seed)
    model: Any = LlavaForConditionalGeneration.from_pretrained(blank, local_files_only=True)
    images = ImageFiles(plan.data / "shapes" / "images", open_processing(blank))
    steps = plan.steps(TOWER_STEPS)

    def report(step: int, loss: float) -> None:
        with (plan.out / "tower.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": step, "loss": loss}) + "\n")
        if step % 200 == 0 or step == steps:
            say(f"tower: step {step} of {steps}, loss {loss:.3f}")

    (plan.out / "tower.jsonl").unlink(missing_ok=True)
    facts = PictureFacts(plan.data / "shapes")
    accuracy = train_tower(model, images, facts, steps, plan.seed, report)
    say("tower: " + ", ".join(f"{name} {value:.0%}" for name, value in accuracy.items()))
    processor = AutoProcessor.from_pretrained(blank, backend="pil", local_files_only=True)
    assert isinstance(processor, LlavaProcessor)  # noqa: S101 (it was written as one)
    return write_checkpoint(plan.out / "tower", model, processor)


def _train(stage: Stage, before: Path, plan: Plan) -> Path:
    steps = plan.steps(stage.steps)
    settings = {
        **_EVERYWHERE,
        **stage.settings,
        "seed": plan.seed,
        "model.path": str(before),
        "data.files": [str(plan.data / file) for file in stage.files],
        "data.image_folder": str(plan.data / stage.images),
        "optimizer.max_steps": steps,
        "optimizer.warmup_share": min(0.3, 20 / steps),
        "output.folder": str(plan.out / stage.name),
    }
    config = read_recipe(stage.recipe, [f"{key}={json.dumps(v)}" for key, v in settings.items()])
    torch.manual_seed(plan.seed)
    train(config)
    return run_folder(config)


def _texts(data: Path) -> Iterator[str]:
    for name in _TEXTS:
        records = json.loads((data / name).read_text("utf-8"))
        for record in itertools.islice(records, _TEXTS_EACH):
            for turn in record["conversations"]:
                speaker = "USER" if turn["from"] == "human" else "ASSISTANT"
                yield f"{speaker}: {turn['value']}"


def _read(path: Path) -> dict[str, Any]:
    if path.is_file():
        return json.loads(path.read_text("utf-8"))
    return {"seconds": {}, "scores": {}}
