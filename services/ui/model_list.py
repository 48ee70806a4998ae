"""Which model is asked and how its answers are drawn; the list follows the gateway."""

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from openai.types import Model

from services.ui.context import Served
from services.ui.gateway_client import Sampling

_MOST_TOKENS = 4096


class ModelList:
    """The menu of models and the parameters of an answer."""

    def __init__(self) -> None:
        with gr.Column(elem_classes="models"):
            self.model = gr.Dropdown(
                [], label="Model", elem_id="model", allow_custom_value=True, filterable=True
            )
            self.state = gr.Markdown("Asking the gateway ...", elem_id="model-state")
            with gr.Accordion("Parameters", open=False):
                self.temperature = gr.Slider(
                    0, 2, 0.2, step=0.05, label="Temperature", info="0: always the likeliest word"
                )
                self.top_p = gr.Slider(0.05, 1, 1, step=0.05, label="Top-p")
                self.max_tokens = gr.Slider(
                    1, _MOST_TOKENS, 512, step=1, label="Longest answer, in tokens",
                    info="less where the model's context leaves less",
                )  # fmt: skip
                self.seed = gr.Textbox(  # a number that is not given would be shown as 0
                    "", label="Seed", placeholder="none", max_length=18,
                    info="a whole number; the same seed, the same answer",
                )  # fmt: skip
                self.system = gr.Textbox(
                    "", label="System prompt", lines=2, max_lines=6, info="before the conversation"
                )

    @property
    def parameters(self) -> list[Any]:
        """The inputs that `sampling_of` needs."""
        return [self.temperature, self.top_p, self.max_tokens, self.seed]

    def sampling_of(self, given: Mapping[Any, Any], context: int | None) -> Sampling:
        """Return how an answer is drawn.

        Args:
            given: values of `parameters`, by component.
            context: of the model, in tokens; an answer that would take more than half of it is as
                long as the gateway lets it be.
        """
        longest = longest_answer(int(given[self.max_tokens]), context)
        seed = (given[self.seed] or "").strip()
        if seed and not seed.isdecimal():
            gr.Warning("The seed is no whole number; none is sent.")
        return Sampling(
            given[self.temperature],
            given[self.top_p],
            longest,
            int(seed) if seed.isdecimal() else None,
        )

    def describe(self, chosen: str | None, served: Served) -> str:
        """Return a model's state in a line."""
        return state_line(served, chosen)

    def updates(self, served: Served, chosen: str | None) -> tuple[Any, Any]:
        """Return updates of the menu and of the line below it."""
        if chosen is None or not chosen:
            chosen = first_choice(served.models)
        choices = choices_of(served.models, chosen)
        return gr.update(choices=choices, value=chosen), state_line(served, chosen)


def choices_of(models: Sequence[Model], chosen: str | None) -> list[tuple[str, str]]:
    """Return the lines of a menu of models; what is chosen stays in it though it be gone."""
    ids = [model.id for model in models]
    known = ids if chosen in ids or chosen is None else [chosen, *ids]
    return [(_label(each, models), each) for each in known]


def longest_answer(wanted: int, context: int | None) -> int | None:
    """Return the longest answer in tokens; None: as long as the gateway lets it be.

    That is where it would take more than half of the model's context.
    """
    return None if context is not None and wanted > context // 2 else wanted


def context_of(models: Sequence[Model], model_id: str) -> int | None:
    """Return how many tokens a model can see; None: not known."""
    extra = _extra(_find(models, model_id))
    found = extra.get("context_length")
    return found if isinstance(found, int) else None


def first_choice(models: Sequence[Model]) -> str | None:
    """Return what is chosen where nobody has: a base that is ready."""
    bases = [each for each in models if _extra(each).get("parent") is None]
    ready = [each for each in bases if _extra(each).get("state") == "ready"]
    found = ready or bases or list(models)
    return found[0].id if found else None


def state_line(served: Served, chosen: str | None) -> str:
    """Return a model's state in a line."""
    if served.problem is not None and not served.models:
        return f"**{served.problem.text()}**"
    if chosen is None:
        return "**No model is served yet.** The operator loads one with `galen models load DIR`."
    model = _find(served.models, chosen)
    if model is None:
        return f"**gone**: `{chosen}` is not served any more; choose another model."
    extra = _extra(model)
    images = (extra.get("galen") or {}).get("images") or {}
    told = [
        f"**{extra.get('state', 'state unknown')}**",
        f"engine {extra.get('engine', '?')}",
        f"context {extra.get('context_length', '?')} tokens",
        f"up to {images.get('max_count', extra.get('max_images', '?'))} images",
    ]
    if images.get("width_px"):
        told.append(f"sees {images['width_px']} x {images['height_px']} ({images.get('mode')})")
    if extra.get("parent"):
        told.append(f"adapter of {extra['parent']}")
    return "; ".join(told)


def _label(model_id: str, models: Sequence[Model]) -> str:
    model = _find(models, model_id)
    state = "gone" if model is None else _extra(model).get("state", "")
    return model_id if state == "ready" else f"{model_id} ({state})"


def _find(models: Sequence[Model], model_id: str) -> Model | None:
    return next((each for each in models if each.id == model_id), None)


def _extra(model: Model | None) -> dict[str, Any]:
    return (model.model_extra or {}) if model is not None else {}
