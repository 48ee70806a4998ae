"""What a training step of a 7B model holds at most, traced, beside what `galen train --plan` says.

The modules, dtypes and calls of a run (autocast, gradient checkpointing, fused AdamW) on *fake*
tensors: these have shape, dtype and storage, but no data, so that a model of any size is traced on
any machine. Every storage that is alive is added up, over two steps: in the second one the
optimizer's moments are there from the beginning. Neither CUDA's context nor what an allocator loses
between blocks is seen, which the plan calls overhead; both are left out here. (torch's own
MemTracker wants a gradient for every parameter, and frozen ones have none.)

Run: python -m benchmarks.training_memory [--write-page]
"""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import typer
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from benchmarks.ours import REPOSITORY
from benchmarks.page_sections import replace_section, table
from modeling.model_shape import read_shape
from training.config import TrainConfig, read_recipe
from training.data_statistics import published_statistics
from training.llava_training import LlavaForTraining
from training.loading import is_projector
from training.plan import forward_pass
from training.segment_attention import Span
from training.training_memory import ForwardPass, TrainingMemory, training_memory

PAGE = REPOSITORY / "docs" / "benchmarks.md"
MODEL = "llava-1.5-7b"
RECIPES = ("stage1_align", "stage2_instruct")  # PEFT moves modules, which fake ones cannot be
EXAMPLE_TOKENS = 512
STEPS = 2

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, slots=True)
class Traced:
    """Bytes of one recipe.

    Args:
        peak: of all storages that were alive in one moment.
    """

    recipe: str
    work: ForwardPass
    planned: TrainingMemory
    peak: int


class _Alive(TorchDispatchMode):
    """Adds up the storages that are alive while the context lasts, those of known tensors too."""

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[weakref.ref[torch.UntypedStorage]] = set()
        for tensor in known:
            self._note(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._note, made)
        return made

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        num_bytes = storage.nbytes()

        def forget(reference: weakref.ref[torch.UntypedStorage]) -> None:
            self._seen.discard(reference)
            self.now -= num_bytes

        reference = weakref.ref(storage, forget)
        if reference not in self._seen:
            self._seen.add(reference)
            self.now += num_bytes
            self.peak = max(self.peak, self.now)


class _StaticLoss(LlavaForTraining):
    """Which tokens are trained is data, and fake tensors have none: here the first ones are."""

    answer_tokens: int

    def _loss(self, hidden_RLH: torch.Tensor, targets_RL: torch.Tensor) -> torch.Tensor:
        trained_T = torch.arange(self.answer_tokens)
        logits_TV = self.lm_head(hidden_RLH.flatten(0, 1)[trained_T]).float()
        targets_T = targets_RL.flatten()[trained_T]
        return functional.cross_entropy(logits_TV, targets_T, reduction="sum")


@app.command()
def bench(
    *,
    write_page: Annotated[
        bool, typer.Option(help="Put the figures into docs/benchmarks.md.")
    ] = False,
) -> None:
    """Trace two steps of each recipe at the size of LLaVA-7B; print a section of Markdown."""
    section = section_of([trace(recipe) for recipe in RECIPES])
    print(section)
    if write_page:
        replace_section(PAGE, "training-memory", section)


def trace(recipe: str) -> Traced:
    """Trace two steps of a recipe."""
    needed = [f"model.path={MODEL}", "data.files=[x.json]", "output.folder=y"]
    config = read_recipe(recipe, [*needed, "train.new_tokens=[]"])
    shape = read_shape(MODEL)
    data = published_statistics(config, shape)
    assert data is not None
    work = forward_pass(config, shape, data)
    with FakeTensorMode():
        model = _model(config, shape.num_weights)
        model.answer_tokens = work.answer_tokens
        peak = _peak_of_steps(model, config, work)
    return Traced(recipe, work, training_memory(shape, config, work, num_cards=1), peak)


def _model(config: TrainConfig, num_weights: int) -> Any:
    """Return the model as `training.loading` makes it, without its data."""
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    text = LlamaConfig(vocab_size=32_064, max_position_embeddings=4096)  # LLaMA-7B by default
    torch.set_default_dtype(torch.bfloat16)
    try:
        model: Any = LlavaForConditionalGeneration(
            LlavaConfig(vision_config=vision, text_config=text, image_token_id=32_000)  # type: ignore[call-arg]  # a field
        )
    finally:
        torch.set_default_dtype(torch.float32)
    # The tower's last norm, which LLaVA does not use, is in no shape.
    found = sum(parameter.numel() for parameter in model.parameters())
    assert abs(found - num_weights) < 1e-4 * num_weights, (found, num_weights)
    model = LlavaForTraining.of(model)
    model.__class__ = _StaticLoss
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        is_language = not name.startswith("model.vision_tower.")
        if is_projector(name) or (config.train.language_model == "full" and is_language):
            parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
    if config.model.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def _peak_of_steps(model: Any, config: TrainConfig, work: ForwardPass) -> int:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    shape = (config.batch.rows, work.tokens // config.batch.rows)
    tokens_RL = torch.zeros(shape, dtype=torch.long)
    pixels = torch.zeros(work.images, 3, 336, 336)
    spans = tuple(
        Span(row, start, min(start + EXAMPLE_TOKENS, shape[1]), 0, 0)
        for row in range(shape[0])
        for start in range(0, shape[1], EXAMPLE_TOKENS)
    )
    model.train()
    with _Alive([*model.parameters(), *model.buffers(), tokens_RL, pixels]) as alive:
        for _ in range(STEPS):
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                (loss,) = model(
                    input_ids=tokens_RL,
                    position_ids=tokens_RL,
                    targets=tokens_RL,
                    spans=spans,
                    pixel_values=pixels,
                )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.optimizer.max_gradient_norm)
            optimizer.step()
            optimizer.zero_grad()
            del loss
    return alive.peak


def section_of(found: list[Traced]) -> str:
    """Return the figures in words."""
    rows = [
        [
            each.recipe,
            f"{each.work.tokens:,}",
            str(each.work.images),
            f"{(each.planned.peak - each.planned.overhead) / 1e9:.2f}",
            f"{each.peak / 1e9:.2f}",
            f"{each.peak / (each.planned.peak - each.planned.overhead):.2f}",
            f"{each.planned.peak / 1e9:.2f}",
        ]
        for each in found
    ]
    head = [
        "recipe", "tokens at once", "images", "planned, GB", "traced, GB", "traced / planned",
        "planned with overhead, GB",
    ]  # fmt: skip
    return "\n".join(
        [
            "## Training: memory of a 7B model beside `--plan`",
            "",
            f"{STEPS} steps of LLaVA-1.5's shapes (CLIP-L/14-336, LLaMA-7B) with the recipes' own "
            "settings, traced on fake tensors, which have storage and no data: what is alive at "
            "once. `python -m benchmarks.training_memory --write-page`. "
            "Overhead (CUDA's context, fragmentation) is nothing that can be traced, and no card "
            "was measured. LoRA and QLoRA are not among them: PEFT moves modules, and bitsandbytes "
            "packs weights, neither of which works without data.",
            "",
            table(head, rows),
        ]
    )


if __name__ == "__main__":
    app()
