"""The panel beside the question: what the model sees of each image, and what can be chosen of it.

Frame and window of DICOM, plane and slice of NIfTI, the recipe, and how an image becomes the square
of a model that has one; each choice asks the gateway for the picture again. What does *not* live
here: asking (`pictures.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gradio as gr
from openai.types import Model

from services.ui.context import Ui
from services.ui.conversation import Attachment
from services.ui.gradio_parts import QUIET
from services.ui.pictures import MEDICAL, Seen, look, with_picture

WINDOWS = (
    "abdomen", "bone", "brain", "liver", "lung", "mediastinum", "soft-tissue", "spine", "stroke",
    "subdural", "temporal-bone",
)  # fmt: skip
"""Names of the API (docs/api.md, "Images"); a test holds them against the gateway's."""
RECIPES = ("default", "grey", "full-range", "ct-three-windows")
MODES = ("crop", "pad", "resize")
PLANES = ("axial", "coronal", "sagittal")
_OWN_WINDOW = "the file's own"
_WHOLE_RANGE = "all values"
"""What counts where a file has no window of its own."""
_CUSTOM = "custom"
_OWN_MODE = "the model's own"
_FACTS = {
    "format": "format", "modality": "modality", "bits": "bits", "photometric": "photometric",
    "transfer_syntax": "transfer syntax", "window": "window", "center": "centre",
    "window_width": "width",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pending:
    """An image that is not sent yet, and what the model would see of it.

    Args:
        has_mode: whether the model lets it be chosen how an image becomes its square.
        has_window: whether the file has a window of its own.
    """

    attachment: Attachment
    seen: Seen = field(default_factory=Seen)
    has_mode: bool = False
    has_window: bool = True


class ImagePanel:
    """The components, and what they do; `attach` joins it to an input for files.

    Args:
        name: its parts' elements begin with it; there are several panels.
    """

    def __init__(self, ui: Ui, name: str = "seen") -> None:
        self._ui = ui
        self.pending = gr.State([])
        with gr.Column(visible=False, elem_classes="image-panel") as self.group:
            gr.Markdown("### What the model sees")
            self.which = gr.Radio([], label="Image", type="index", visible=False)
            self.picture = gr.Image(
                label="What the model sees of this image",
                type="filepath",
                format="png",
                interactive=False,
                height=260,
                buttons=["fullscreen", "download"],
                elem_id=f"{name}-picture",
                elem_classes="seen-picture",
            )
            self.told = gr.Markdown(elem_id=f"{name}-facts", elem_classes="seen-facts")
            self.frame = gr.Slider(1, 2, 1, step=1, label="Frame", visible=False)
            self.plane = gr.Dropdown(list(PLANES), value="axial", label="Plane", visible=False)
            self.slice = gr.Slider(1, 2, 1, step=1, label="Slice", visible=False)
            self.window = gr.Dropdown(
                _windows(has_own=True), value=_OWN_WINDOW, label="Window", visible=False
            )
            with gr.Row(visible=False) as self.custom:
                self.center = gr.Number(40, label="Window centre")
                self.width = gr.Number(400, label="Window width", minimum=1)
            self.recipe = gr.Dropdown(list(RECIPES), value="default", label="Recipe", visible=False)
            self.mode = gr.Dropdown(
                [_OWN_MODE, *MODES], value=_OWN_MODE, label="Fit to the model", visible=False,
                info="crop cuts the longer side, pad puts a border around, resize distorts",
            )  # fmt: skip

    @property
    def _choices(self) -> list[Any]:
        return [
            self.frame, self.plane, self.slice, self.window, self.center, self.width, self.recipe,
            self.mode,
        ]  # fmt: skip

    @property
    def outputs(self) -> list[Any]:
        """What `shown` gives, in this order."""
        return [
            self.pending, self.group, self.which, self.picture, self.told, self.custom,
            *self._choices,
        ]  # fmt: skip

    def attach(self, source: gr.MultimodalTextbox, model: gr.Dropdown) -> None:
        """Look at what is added to an input, and again at what is chosen of it."""
        source.change(
            self._on_files,
            [source, self.pending, model],
            self.outputs,
            trigger_mode="always_last",
            concurrency_limit=None,
            **QUIET,
        )
        self.which.input(self._on_which, [self.which, self.pending], self.outputs, **QUIET)
        self._model = model
        chosen = {self.which, self.pending, model, *self._choices}
        gr.on(
            [
                self.frame.release, self.slice.release, self.plane.input, self.window.input,
                self.center.submit, self.width.submit, self.recipe.input, self.mode.input,
            ],
            self._on_choice,
            chosen,
            self.outputs,
            trigger_mode="always_last",
            concurrency_limit=None,
            show_progress="minimal",
            api_visibility="private",
        )  # fmt: skip
        model.input(self._on_model, [self.which, self.pending, model], self.outputs, **QUIET)

    def attachments(self, files: Sequence[str], pending: Sequence[Pending]) -> list[Attachment]:
        """Return the images of a question, with what was chosen of them."""
        known = {each.attachment.file: each for each in pending}
        found: list[Attachment] = []
        for file in map(Path, files):
            each = known.get(file) or Pending(_attachment(file))
            found.append(with_picture(each.attachment, each.seen))
        return found

    async def _on_files(
        self,
        value: Mapping[str, Any] | None,
        pending: list[Pending],
        model: str,
        request: gr.Request,
    ) -> Any:
        files = [Path(file) for file in (value or {}).get("files", ())]
        known = {each.attachment.file: each for each in pending}
        if [*known] == files:
            return gr.skip()
        found: list[Pending] = []
        for file in files:
            each = known.get(file)
            found.append(each or await self._looked_at(Pending(_attachment(file)), model, request))
        return self._shown(found, len(found) - 1)

    def _on_which(self, index: int | None, pending: list[Pending]) -> Any:
        return self._shown(pending, index or 0)

    async def _on_choice(self, given: dict[Any, Any], request: gr.Request) -> Any:
        pending: list[Pending] = given[self.pending]
        index = min(given[self.which] or 0, len(pending) - 1)
        if index < 0:
            return gr.skip()
        old = pending[index]
        attachment = replace(old.attachment, preprocess=self._preprocess(old, given))
        model = given[self._model]
        looked = await self._looked_at(replace(old, attachment=attachment), model, request)
        if looked.seen.facts is None:  # the sliders stay as they were
            looked = replace(looked, seen=replace(looked.seen, facts=old.seen.facts))
        shown = self._shown([*pending[:index], looked, *pending[index + 1 :]], index)
        # The sliders stay where their user has them by now; another plane has other slices.
        shown[self.outputs.index(self.frame)] = gr.skip()
        planes = {each.attachment.preprocess.get("plane", PLANES[0]) for each in (old, looked)}
        if len(planes) == 1:
            shown[self.outputs.index(self.slice)] = gr.skip()
        return shown

    def _preprocess(self, old: Pending, given: dict[Any, Any]) -> dict[str, Any]:
        """Return what was chosen, as the API has it."""
        facts = old.seen.facts or {}
        chosen: dict[str, Any] = {}
        if facts.get("frames", 1) > 1:
            chosen["frame"] = int(given[self.frame])
        if facts.get("slices", 0) > 0:
            chosen["plane"] = given[self.plane]
            if chosen["plane"] == old.attachment.preprocess.get("plane", PLANES[0]):
                chosen["slice"] = int(given[self.slice])  # else the middle of the new plane
        window = given[self.window]
        if window == _CUSTOM:
            width = max(1, given[self.width] or 1)
            chosen["window"] = {"center": given[self.center] or 0, "width": width}
        elif window != _OWN_WINDOW:
            chosen["window"] = window
        if given[self.recipe] != RECIPES[0]:
            chosen["recipe"] = given[self.recipe]
        if old.has_mode and given[self.mode] != _OWN_MODE:
            chosen["mode"] = given[self.mode]
        return chosen

    async def _on_model(
        self, index: int | None, pending: list[Pending], model: str, request: gr.Request
    ) -> Any:
        if not pending:
            return gr.skip()
        looked = [await self._looked_at(each, model, request) for each in pending]
        return self._shown(looked, min(index or 0, len(looked) - 1))

    async def _looked_at(self, pending: Pending, model: str, request: gr.Request) -> Pending:
        session = self._ui.session_of(request)
        gateway = self._ui.gateways.of(session.key)
        served = await self._ui.served_to(session)
        has_mode = is_mode_chosen(served.models, model)
        attachment = pending.attachment
        if not has_mode and "mode" in attachment.preprocess:  # of the model before
            kept = {n: v for n, v in attachment.preprocess.items() if n != "mode"}
            attachment = replace(attachment, preprocess=kept)
        seen = await look(gateway, model, attachment, self._ui.folder)
        if seen.picture is not None:
            self._ui.sessions.keep_file(session, seen.picture)
        has_window = pending.has_window
        if seen.facts is not None and not {"window", "recipe"} & attachment.preprocess.keys():
            has_window = seen.facts.get("window") in ("voi-window", "voi-lut")
        return Pending(attachment, seen, has_mode, has_window)

    def _shown(self, pending: list[Pending], index: int) -> list[Any]:
        """Return updates of all `outputs`."""
        if not pending:
            return [[], gr.update(visible=False), *[gr.skip()] * (len(self.outputs) - 2)]
        chosen = pending[index]
        facts = chosen.seen.facts or {}
        preprocess = chosen.attachment.preprocess
        is_medical = facts.get("format") in MEDICAL
        frames, slices = int(facts.get("frames", 1)), int(facts.get("slices", 0))
        names = [f"{number}. {each.attachment.name}" for number, each in enumerate(pending, 1)]
        window = preprocess.get("window", _OWN_WINDOW)
        is_custom = isinstance(window, Mapping)
        return [
            pending,
            gr.update(visible=True),
            gr.update(choices=names, value=names[index], visible=len(pending) > 1),
            None if chosen.seen.picture is None else str(chosen.seen.picture),
            _told(chosen.seen),
            gr.update(visible=is_custom),
            gr.update(
                maximum=max(2, frames), value=int(facts.get("frame") or 1), visible=frames > 1,
                label=f"Frame (of {frames})",
            ),
            gr.update(value=preprocess.get("plane", PLANES[0]), visible=slices > 0),
            gr.update(
                maximum=max(2, slices), value=int(facts.get("slice") or 1), visible=slices > 1,
                label=f"Slice (of {slices})",
            ),
            gr.update(
                choices=_windows(has_own=chosen.has_window),
                value=_CUSTOM if is_custom else window, visible=is_medical,
            ),
            gr.update(value=window["center"]) if is_custom else gr.skip(),
            gr.update(value=window["width"]) if is_custom else gr.skip(),
            gr.update(value=preprocess.get("recipe", RECIPES[0]), visible=is_medical),
            gr.update(value=preprocess.get("mode", _OWN_MODE), visible=chosen.has_mode),
        ]  # fmt: skip


def is_mode_chosen(models: Sequence[Model], model_id: str) -> bool:
    """Return whether a model brings images to a square, in a way that may be chosen."""
    found = next((each for each in models if each.id == model_id), None)
    card = ((found.model_extra or {}).get("galen") or {}) if found is not None else {}
    images = card.get("images") or {}
    sides = images.get("width_px"), images.get("height_px")
    return images.get("mode") in MODES and sides[0] is not None and sides[0] == sides[1]


def _attachment(file: Path) -> Attachment:
    return Attachment(file, file.name)


def _windows(*, has_own: bool) -> list[tuple[str, str]]:
    """Return the lines of the menu; what nobody chose is called what it is."""
    unchosen = _OWN_WINDOW if has_own else _WHOLE_RANGE
    return [(unchosen, _OWN_WINDOW), *((name, name) for name in (*WINDOWS, _CUSTOM))]


def _told(seen: Seen) -> str:
    if seen.problem is not None:
        return f"**{seen.problem.text()}**"
    facts = seen.facts or {}
    told = [f"{facts.get('width')} x {facts.get('height')} pixels"]
    told += [
        f"{name} {facts.get(name)} of {facts[f'{name}s']}"
        for name in ("frame", "slice")
        if int(facts.get(f"{name}s") or 1) > 1
    ]
    told += [f"{name}: {facts[key]}" for key, name in _FACTS.items() if facts.get(key)]
    if facts.get("burned_in") == "YES":
        told.append("the file says that there is text within its pixels")
    if facts.get("masked"):
        told.append("a border was made black")
    return f"{'; '.join(told)}. Prepared by `{seen.fingerprint}`."
