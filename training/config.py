"""A recipe: everything that decides a training run, read from YAML and checked before it begins.

Keys that are not known are errors. What each means, with its unit, stands here and, as a comment,
in the recipes (`recipes/*.yaml`), beside the source of its number. What does *not* live here:
whether the data and the checkpoint fit together (`audit.py`), and whether the cards hold it
(`plan.py`).
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from modeling.conversation_templates import TemplateName
from training.errors import TrainingError

RECIPES = resources.files("training") / "recipes"

Share = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Decay = Annotated[float, Field(ge=0, lt=1)]
_Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Part):
    """Which checkpoint is trained, and how it computes.

    Args:
        path: folder of a LLaVA in Hugging Face's layout (`galen convert` makes one).
        conversation: a template's name; None takes the checkpoint's own chat template.
        attention: `auto` is flash-attn where it is installed and the device has it, else sdpa.
        precision: `bf16`: frozen weights and arithmetic in bfloat16, trained weights and
            optimizer in float32; `fp32`: everything in float32.
        tf32: float32 products of a GPU with 10 bits of mantissa.
        quantisation: `nf4`: the frozen language model in 4 bits (QLoRA, arXiv:2305.14314).
    """

    path: Path
    conversation: TemplateName | None = None
    attention: Literal["auto", "sdpa", "flash_attention_2"] = "auto"
    precision: Literal["bf16", "fp32"] = "bf16"
    tf32: bool = True
    gradient_checkpointing: bool = True
    quantisation: Literal["nf4"] | None = None


class TrainedParts(_Part):
    """What is trained; the rest is frozen.

    Args:
        new_tokens: rows of the input embedding that are trained though the rest of it is frozen,
            by the tokens' names; those that the checkpoint does not have are passed over.
    """

    projector: bool = True
    language_model: Literal["frozen", "lora", "full"] = "frozen"
    vision_tower: bool = False
    new_tokens: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _something_is_trained(self) -> "TrainedParts":
        if not (self.projector or self.vision_tower or self.language_model != "frozen"):
            raise ValueError(
                "nothing is trained; set one of projector, language_model, vision_tower"
            )
        return self


class LoraConfig(_Part):
    """Low-rank adapters of the language model (arXiv:2106.09685).

    Args:
        alpha: updates are scaled by alpha / rank.
        target_modules: names of the linear layers that get one.
    """

    rank: _Count = 128
    alpha: _Positive = 256
    dropout: Share = 0.05
    target_modules: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip


class ProblemLimits(_Part):
    """Shares of all examples above which a run stops; each problem is counted and listed anyway.

    Args:
        missing_images: no file, or one that is no image.
        truncated: longer than `max_length`.
        without_loss: nothing of it would be learnt.
        malformed: records that are no conversation.
    """

    missing_images: Share = 0.0
    truncated: Share = 0.02
    without_loss: Share = 0.0
    malformed: Share = 0.0


class DataConfig(_Part):
    """The examples.

    Args:
        files: in LLaVA-Med's JSON (a list) or JSONL.
        image_folder: where `image` of a record is looked for.
        max_length: tokens of one example, image tokens included; longer ones are cut.
        requires_images: every record must show one (alignment).
        questions_per_image: up to so many records of one image are taken together, so that packing
            encodes it once; 1 shuffles all records alike.
        workers: processes that read images.
        cache_features: compute a frozen tower's features once and keep them beside the run.
    """

    files: tuple[Path, ...] = Field(min_length=1)
    image_folder: Path | None = None
    max_length: _Count = 2048
    requires_images: bool = False
    questions_per_image: _Count = 1
    workers: Annotated[int, Field(ge=0)] = 4
    cache_features: bool = False
    limits: ProblemLimits = ProblemLimits()


class BatchConfig(_Part):
    """How examples become the tensors of one step.

    Args:
        examples: of one optimizer step, over all cards.
        layout: `packed`: several examples in a row, none sees another; `grouped`: one per row,
            rows of like length together; `plain`: one per row, padded.
        rows: per card and forward pass.
        row_tokens: of a packed row; None: `max_length`.
    """

    examples: _Count
    layout: Literal["packed", "grouped", "plain"] = "packed"
    rows: _Count = 1
    row_tokens: _Count | None = None


class OptimizerConfig(_Part):
    """AdamW (arXiv:1711.05101) and its schedule.

    Args:
        kind: `adamw_8bit`: moments in 8 bits (bitsandbytes, arXiv:2110.02861).
        learning_rate: at the end of the warm-up.
        projector_learning_rate: None: the same.
        warmup_share: of all steps, in which the rate grows linearly.
        schedule: from the end of the warm-up to the last step, down to 0.
        max_gradient_norm: longer gradients are scaled to it.
        epochs: may be a fraction.
        max_steps: None: as many as the epochs have.
    """

    kind: Literal["adamw", "adamw_8bit"] = "adamw"
    learning_rate: _Positive
    projector_learning_rate: _Positive | None = None
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    betas: tuple[_Decay, _Decay] = (0.9, 0.999)
    epsilon: _Positive = 1e-8
    warmup_share: Share = 0.03
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    max_gradient_norm: _Positive = 1.0
    epochs: _Positive = 1.0
    max_steps: _Count | None = None


class DeviceConfig(_Part):
    """The machine.

    Args:
        sharding: over several cards: `full`: parameters, gradients and optimizer are divided
            (FSDP2); `none`: each card holds all of them, and gradients are averaged.
        peak_tflops: of one card in the precision chosen, for MFU; None: looked up by its name.
    """

    sharding: Literal["full", "none"] = "full"
    peak_tflops: _Positive | None = None


class OutputConfig(_Part):
    """What is written.

    Args:
        folder: the finished checkpoint; while it is made, `FOLDER.training` beside it holds the
            run: checkpoints, log, list of problems.
        dtype: of the finished weights; None: the base checkpoint's.
        save_every_steps: None: at the end only.
        keep_checkpoints: of the run, the newest ones.
        log_every_steps: one line of the log.
        report_to: further places for the log.
    """

    folder: Path
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    save_every_steps: _Count | None = None
    keep_checkpoints: _Count = 1
    log_every_steps: _Count = 1
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ()


class TrainConfig(_Part):
    """A whole recipe; `name` says which one."""

    name: str
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0  # NumPy's range
    model: ModelConfig
    train: TrainedParts
    lora: LoraConfig = LoraConfig()
    data: DataConfig
    batch: BatchConfig
    optimizer: OptimizerConfig
    devices: DeviceConfig = DeviceConfig()
    output: OutputConfig

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "TrainConfig":
        row = self.batch.row_tokens
        if row is not None and self.batch.layout == "packed" and row < self.data.max_length:
            raise ValueError(
                f"batch.row_tokens {row} is less than data.max_length {self.data.max_length}; "
                "an example of that length would fit in no row"
            )
        if self.data.questions_per_image > 1 and self.batch.layout != "packed":
            raise ValueError("data.questions_per_image is for batch.layout packed")
        if self.data.cache_features and self.train.vision_tower:
            raise ValueError("data.cache_features needs a frozen tower; unset train.vision_tower")
        if self.model.quantisation and self.train.language_model != "lora":
            raise ValueError(
                "model.quantisation is for adapters: set train.language_model=lora, or leave it out"
            )
        return self


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with Galen."""
    return sorted(
        f.name.removesuffix(".yaml") for f in RECIPES.iterdir() if f.name.endswith("yaml")
    )


def read_recipe(recipe: str, settings: Sequence[str] = ()) -> TrainConfig:
    """Return a recipe with some of its keys set.

    Args:
        recipe: one of `recipe_names()`, or a YAML file.
        settings: `key=value`, the key with dots (`data.max_length=1024`), the value in YAML.

    Raises:
        TrainingError: there is none, or a key or a value is not allowed.
    """
    name, text = _text_of(recipe)
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TrainingError(
            f"{recipe}: {' '.join(str(error).split())}; correct the YAML"
        ) from error
    if not isinstance(values, dict):
        raise TrainingError(f"{recipe} holds no keys; see `galen train --help` for an example")
    for setting in settings:
        _set(cast("dict[str, Any]", values), setting)
    try:
        return TrainConfig.model_validate({"name": name, **values})
    except ValidationError as error:
        raise TrainingError(_in_words(recipe, error)) from error


def _text_of(recipe: str) -> tuple[str, str]:
    file = Path(recipe)
    if file.suffix in {".yaml", ".yml"}:
        try:
            return file.stem, file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TrainingError(f"{recipe} cannot be read ({error}); give a YAML file") from error
    if recipe not in recipe_names():
        raise TrainingError(
            f"no recipe {recipe!r}; take one of {', '.join(recipe_names())}, or a file NAME.yaml"
        )
    return recipe, (RECIPES / f"{recipe}.yaml").read_text(encoding="utf-8")


def _set(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise TrainingError(f"--set {setting!r} is no key=value; write data.max_length=1024")
    *parents, last = key.split(".")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TrainingError(f"--set {key}: {text!r} is no value in YAML") from error
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise TrainingError(f"--set {key}: {parent} has no keys under it")
    values[last] = value


def _in_words(recipe: str, error: ValidationError) -> str:
    """Return the first mistake and how many more there are; a misspelt key leaves another unset."""
    first, *others = sorted(
        error.errors(include_url=False), key=lambda mistake: mistake["type"] != "extra_forbidden"
    )
    key = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "extra_forbidden":
            said = f"unknown key {key}; allowed there: {', '.join(_known_keys(first['loc']))}"
        case "missing":
            said = f"{key} is not set; add --set {key}=..."
        case _:
            message = first["msg"].removeprefix("Value error, ")
            said = f"{key}: {message}" if key else message
    more = f" (and {len(others)} more)" if others else ""
    return f"{recipe}: {said}{more}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    part: Any = TrainConfig
    for key in location[:-1]:
        part = part.model_fields[key].annotation
    return sorted(part.model_fields)
