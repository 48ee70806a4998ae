"""A LLaVA in Hugging Face layout, put together from the parts of an original checkpoint.

The result is transformers' `LlavaForConditionalGeneration` under the tensor names of published
checkpoints, with tokenizer, image processor, chat template and what ends an answer: all that
transformers and vLLM need. What does *not* live here: where the parts come from
(`llava_med_v1.py`, `llava_med_v15.py`).
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    GenerationConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from modeling.chat_template import jinja_of
from modeling.checkpoint_files import CheckpointError
from modeling.checkpoints.model_files import ORIGINAL
from modeling.checkpoints.output_folder import Destination, Recipe, write_folder, write_manifest
from modeling.checkpoints.tensor_hash import TensorHash, checkpoint_hash, hash_tensor
from modeling.checkpoints.tensor_source import (
    DTYPES,
    ROTARY_BUFFER,
    StoredTensor,
    TensorSource,
)
from modeling.checkpoints.tensor_writer import Output
from modeling.checkpoints.tokenizer_files import TokenizerFiles
from modeling.checkpoints.towers import Tower
from modeling.conversation_templates import ConversationTemplate
from modeling.tensor_shapes import expected_tensors, with_defaults

TORCH_DTYPES: Mapping[str, str] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a tensor of the result comes from.

    Args:
        stored: what it is made of; None where it is generated.
        role: of the source that holds it, such as checkpoint.
        is_copy: whether its numbers are the stored ones, if the type is the same.
    """

    stored: StoredTensor | None
    shape: tuple[int, ...]
    make: Callable[[], torch.Tensor]
    role: str = "checkpoint"
    is_copy: bool = True


@dataclass(frozen=True, slots=True)
class HfModel:
    """All that is written.

    Args:
        origins: by the name in the result.
        dtype: safetensors' name of the type of all weights.
        config: of the whole, `image_aspect_ratio` included.
        special: tokens by role: bos_token, eos_token, pad_token, unk_token.
        image_token: stands for one patch in token ids.
        image_text: stands for an image in a chat; holds `image_token` once.
        original: small files by name, kept as they were.
        notes: what the user should know.
        facts: more for the manifest.
    """

    origins: Mapping[str, Origin]
    dtype: str
    config: LlavaConfig
    tower: Tower
    tokenizer: TokenizerFiles
    special: Mapping[str, str]
    image_token: str
    image_text: str
    template: ConversationTemplate
    original: Mapping[str, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer."""
        text: Any = self.config.text_config  # its type allows a dict, which it never is
        return text.max_position_embeddings

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        return () if self.template.stop is None else (self.template.stop,)

    def special_id(self, role: str) -> int | None:
        """Return the id of a special token."""
        token = self.special.get(role)
        return None if token is None else self.tokenizer.id_of(token)


def published_name(name: str, tower_kind: str) -> str:
    """Return the published name of one that transformers 5 has.

    vLLM and releases of transformers before 4.52 read these names; newer ones read both.
    """
    tower = "vision_tower.vision_model." if tower_kind == "clip_vision_model" else "vision_tower."
    for ours, published in (
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", tower),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("lm_head.", "language_model.lm_head."),
    ):
        if name.startswith(ours):
            return published + name.removeprefix(ours)
    raise AssertionError(f"{name} is no tensor of a LLaVA")


def is_converted(source: TensorSource) -> bool:
    """Whether these are a LLaVA's tensors in Hugging Face layout, by old or new names."""
    prefixes = ("multi_modal_projector.", "model.multi_modal_")
    return any(name.startswith(prefixes) for name in source.tensors)


def refuse_converted(source: TensorSource) -> None:
    """Raise CheckpointError where nothing is left to convert."""
    if is_converted(source):
        raise CheckpointError(f"{source.path} is in Hugging Face layout already: serve it as it is")


def decoder_origins(source: TensorSource, rows: int) -> Iterator[tuple[str, Origin]]:
    """Yield the language model's tensors: LLaMA's names, in both generations.

    Args:
        rows: of embedding and output layer in the result; those that are new are the mean of the
            others, so that no logit of them is ever the largest.
    """
    for name, stored in source.tensors.items():
        is_layer = name.startswith(("model.layers.", "model.norm."))
        if is_layer and not name.endswith(ROTARY_BUFFER):
            yield f"language_model.{name}", Origin(stored, stored.shape, partial(source.read, name))
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        stored = source.info(name)
        make = partial(_with_mean_rows, source, name, rows)
        shape = (rows, *stored.shape[1:])
        yield f"language_model.{name}", Origin(stored, shape, make, is_copy=shape == stored.shape)


def tower_origins(tower: Tower, role: str) -> Iterator[tuple[str, Origin]]:
    """Yield the vision tower's tensors."""
    for name, tensor in tower.tensors.items():
        yield (
            published_name(f"model.vision_tower.{name}", tower.kind),
            Origin(
                tensor.stored,
                tensor.shape,
                tensor.read,
                role,
                is_copy=tensor.stored is not None and tensor.stored.shape == tensor.shape,
            ),
        )


def check_origins(model: HfModel, source: TensorSource) -> None:
    """Compare the result's tensors with those that its configuration describes.

    Raises:
        CheckpointError: names the first that is missing, extra, or of another shape.
    """
    full = with_defaults(model.config.to_dict())
    expected = {
        published_name(name, model.tower.kind): shape
        for name, shape in expected_tensors(full).items()
    }
    for name, shape in expected.items():
        origin = model.origins.get(name)
        if origin is None:
            raise CheckpointError(
                f"{source.path} lacks the tensor that becomes {name!r}: a file of it is missing, "
                "or its config.json is another model's"
            )
        if origin.shape != shape:
            what = name if origin.stored is None else origin.stored.name
            raise CheckpointError(
                f"{what!r} is {list(origin.shape)}, config.json describes {list(shape)}: the files "
                "are of different models"
            )
    if extra := sorted(model.origins.keys() - expected.keys()):
        stored = model.origins[extra[0]].stored
        what = extra[0] if stored is None else stored.name
        raise CheckpointError(
            f"{source.path} holds {what!r}, which its config.json does not describe: the files are "
            "of different models"
        )


def refuse_unused(
    model: HfModel, source: TensorSource, kind: str, left_out: Collection[str] = ()
) -> None:
    """Raise CheckpointError where a checkpoint holds what its result does not.

    Args:
        kind: such as LLaVA-Med v1.0.
        left_out: what may be there all the same.
    """
    used = {o.stored.name for o in model.origins.values() if o.stored and o.role == "checkpoint"}
    for name in source.tensors:
        if not (name in used or name in left_out or name.endswith(ROTARY_BUFFER)):
            raise CheckpointError(
                f"{source.path} holds {name!r}, which no {kind} has: a checkpoint of another kind "
                "(`galen inspect` says which)"
            )


def outputs_of(model: HfModel) -> list[Output]:
    """Return the tensors that are written, all in the model's type."""
    dtype = DTYPES[model.dtype]
    return [
        Output(name, model.dtype, origin.shape, partial(_cast, origin.make, dtype))
        for name, origin in model.origins.items()
    ]


def write_model(model: HfModel, recipe: Recipe, to: Destination) -> None:
    """Write everything.

    Raises:
        CheckpointError: it cannot be written, or a number does not fit the type.
    """
    processor = make_processor(model)

    def write_rest(folder: Path, hashes: dict[str, TensorHash]) -> None:
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        make_generation_config(model).save_pretrained(folder)
        (folder / ORIGINAL).mkdir(exist_ok=True)
        for name, blob in model.original.items():
            (folder / ORIGINAL / name).write_bytes(blob)
        more = {"template": model.template.name, "notes": list(model.notes), **model.facts}
        write_manifest(folder, recipe, _source_hashes(model, recipe, hashes), hashes, more)

    write_folder(to, recipe, outputs_of(model), write_rest)


def make_processor(model: HfModel) -> LlavaProcessor:
    """Return tokenizer and image preprocessing (PIL), with the chat template."""
    tower = model.tower
    side = tower.side_px
    images = CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=list(tower.mean),
        image_std=list(tower.std),
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=make_tokenizer(model),
        patch_size=tower.config["patch_size"],
        # the class token is the one additional token; "default" takes it away again
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=jinja_of(model.template, model.image_text),
    )


def make_tokenizer(model: HfModel) -> PreTrainedTokenizerFast:
    """Return the tokenizer; it begins every text with the checkpoint's own BOS."""
    tokenizer = model.tokenizer.tokenizer
    bos = model.special.get("bos_token")
    if bos is not None:
        ids = [(bos, tokenizer.token_to_id(bos))]
        tokenizer.post_processor = TemplateProcessing(  # type: ignore[assignment]  # stubs: no setter
            single=[bos, "$A"], pair=[bos, "$A", bos, "$B"], special_tokens=ids
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **model.special,
        extra_special_tokens={"image_token": model.image_token},
        padding_side="left",
        model_max_length=model.context_length,
        clean_up_tokenization_spaces=False,
    )


def make_generation_config(model: HfModel) -> GenerationConfig:
    """Return what `generate` and our engines end answers by."""
    ids = {f"{role}_id": model.special_id(role) for role in ("bos_token", "eos_token", "pad_token")}
    stops = {"stop_strings": list(model.stop_strings)} if model.stop_strings else {}
    return GenerationConfig(**ids, **stops)


def most_common_dtype(source: TensorSource) -> str:
    """Return the type of most of a source's numbers, by safetensors' name.

    Raises:
        CheckpointError: it is none that a model is computed in.
    """
    sizes: dict[str, int] = {}
    for tensor in source.tensors.values():
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.num_bytes
    found = max(sizes, key=lambda dtype: sizes[dtype])
    if found not in TORCH_DTYPES:
        raise CheckpointError(f"{source.path} is stored as {found}: give --dtype float16")
    return found


def _with_mean_rows(source: TensorSource, name: str, rows: int) -> torch.Tensor:
    stored = source.read(name)
    known = stored.shape[0]
    if rows == known:
        return stored
    total = torch.zeros(stored.shape[1:], dtype=torch.float32)
    for piece in stored.split(1024):
        total += piece.sum(0, dtype=torch.float32)
    result = stored.new_empty((rows, *stored.shape[1:]))
    result[:known] = stored
    result[known:] = (total / known).to(stored.dtype)
    return result


def _cast(make: Callable[[], torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    return make().to(dtype)


def _source_hashes(
    model: HfModel, recipe: Recipe, hashes: Mapping[str, TensorHash]
) -> dict[str, str]:
    """Return the hash of all stored tensors that were used, by the role of their source."""
    found: dict[str, dict[str, TensorHash]] = {role: {} for role in recipe.sources}
    for name, origin in model.origins.items():
        stored = origin.stored
        if stored is None or stored.name in found[origin.role]:
            continue
        if origin.is_copy and stored.dtype == model.dtype:
            found[origin.role][stored.name] = hashes[name]
        else:
            tensor = recipe.sources[origin.role].read(stored.name)
            found[origin.role][stored.name] = hash_tensor(tensor)
    return {role: checkpoint_hash(tensors) for role, tensors in found.items()}
