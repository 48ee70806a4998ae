"""What a checkpoint directory is, and what would be wrong when it is served.

Reads headers and small files, no weights but a few small tensors. What does *not* live here:
printing (`inspect_command.py`).
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any

from rich.filesize import decimal

from modeling.checkpoint_files import (
    CheckpointError,
    CheckpointFiles,
    open_checkpoint,
    read_json,
    read_tensors,
    refuse_without_processor,
    sampled_fingerprint,
)
from modeling.checkpoints import llava_med_v1, llava_med_v15
from modeling.checkpoints.delta import PROJECTOR_PREFIX, base_hash, is_delta, stored_hash
from modeling.checkpoints.hf_layout import is_converted
from modeling.checkpoints.model_files import CONFIG
from modeling.checkpoints.output_folder import JOURNAL, read_manifest
from modeling.checkpoints.tensor_source import (
    DTYPES,
    ROTARY_BUFFER,
    TensorSource,
    numel,
    open_tensors,
)
from modeling.checkpoints.tokenizer_files import TokenizerFiles, read_tokenizer
from modeling.checkpoints.towers import OPEN_CLIP_WEIGHTS, read_tower
from modeling.finite_weights import refuse_non_finite
from modeling.image_recipe import ImageModeError, mode_of
from modeling.model_shape import why_incomplete
from modeling.vllm_limits import NO_ACTIVATION, VLLM_NO_ACTIVATION, why_model_not_on_vllm

_WRONG_KIND = (TypeError, ValueError, AttributeError, OverflowError)
_NORM = "model.norm.weight"
_TELLS_A_DELTA = (_NORM, ROTARY_BUFFER)


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Args:
        kind: in words.
        facts: label and value, in the order of reading.
        problems: what would be wrong when it is served here; empty: nothing known.
        notes: what is worth knowing.
        advice: what to do with it.
    """

    kind: str
    facts: dict[str, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


def inspect_folder(path: Path, *, is_hashed: bool = False) -> Report:
    """Look at a directory.

    Args:
        is_hashed: read all weights and give their hash (about 2 s per GB).

    Raises:
        CheckpointError: there are no weights, or they cannot be read.
    """
    if (path / OPEN_CLIP_WEIGHTS).is_file():
        tower = read_tower(path)
        facts = {"vision tower": f"ViT, {tower.side_px} px", **_sizes(tower.source)}
        return Report("BiomedCLIP in open_clip's layout: a tower for `galen convert v1`", facts)
    source = open_tensors(path)
    file = path / CONFIG
    config: Any = read_json(file) if file.is_file() else {}
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds no JSON object")
    report = _by_kind(path, source, config)
    facts = {**report.facts, **_sizes(source)}
    facts["hash"] = _hash(path, source, is_hashed=is_hashed)
    if is_hashed and _is_language_model(source):
        facts["hash as a base"] = f"{base_hash(source)} (in float16, as deltas name their base)"
    return replace(report, facts=facts)


def _by_kind(path: Path, source: TensorSource, config: dict[str, Any]) -> Report:
    if path.name.endswith(".partial") and (path / JOURNAL).is_file():
        advice = "run the command that was stopped once more: it goes on"
        return Report("a conversion that was not finished", {}, ("it is not whole",), (), (advice,))
    names = source.tensors
    if f"{PROJECTOR_PREFIX}weight" in names:
        return _v1(path, source, config)
    if f"{PROJECTOR_PREFIX}0.weight" in names:
        return _v15(path, source, config)
    if is_converted(source):
        return _hugging_face(path, config)
    return _other(source, config)


def _other(source: TensorSource, config: dict[str, Any]) -> Report:
    kind = config.get("model_type")
    if any(name.endswith("embeddings.class_embedding") for name in source.tensors):
        return Report("CLIP: a vision tower for `galen convert v1` and `galen convert v15`")
    if _is_language_model(source):
        advice = "LLaMA-1 7B is the base of LLaVA-Med v1.0's delta: galen convert apply-delta"
        return Report(f"a language model without images ({kind})", advice=(advice,))
    return Report(f"no LLaVA that is known here (model_type {kind!r})")


def _is_language_model(source: TensorSource) -> bool:
    has_images = any(name.startswith(PROJECTOR_PREFIX) for name in source.tensors)
    is_llava = has_images or is_converted(source)
    return "model.embed_tokens.weight" in source.tensors and not is_llava


def _v1(path: Path, source: TensorSource, config: dict[str, Any]) -> Report:
    if _is_delta(source):
        advice = (
            f"galen convert apply-delta --base LLAMA-7B --delta {quote(str(path))} --out MERGED"
        )
        problem = "a delta answers nothing before it is added to its base"
        return Report(
            "LLaVA-Med v1.0 (or LLaVA v0): a delta", problems=(problem,), advice=(advice,)
        )
    tokenizer = _tokenizer(path)
    facts = {
        "vision tower": f"{config.get('mm_vision_tower', 'not said')} (not in these files)",
        "projector": "one linear layer",
        "conversation template": "v0; answers end at '###'",
        "images": config.get("image_aspect_ratio", "square"),
        "context": f"{llava_med_v1.context_of(config)} tokens",
        **_ids(tokenizer),
    }
    problems = ["transformers and vLLM do not load this layout"]
    problems += _said_wrongly(config, tokenizer)
    advice = f"galen convert v1 {quote(str(path))} --tower CLIP-VIT-LARGE-PATCH14 --out DIR"
    return Report(
        "LLaVA-Med v1.0 (or LLaVA v0), original layout", facts, (*problems,), advice=(advice,)
    )


def _is_delta(source: TensorSource) -> bool:
    looked_at = [t for n, t in source.tensors.items() if n.endswith(_TELLS_A_DELTA)]
    is_readable = all(tensor.dtype in DTYPES for tensor in looked_at)
    return _NORM in source.tensors and is_readable and is_delta(source)


def _v15(path: Path, source: TensorSource, config: dict[str, Any]) -> Report:
    own = llava_med_v15.own_tower(source)
    tower = config.get("mm_vision_tower", "not said")
    facts = {
        "vision tower": tower if own is None else f"{tower}; and one of its own, {own.side_px} px",
        "projector": str(config.get("mm_projector_type", "two layers")),
        "conversation template": "mistral_instruct",
        "images": config.get("image_aspect_ratio", "pad"),
        "context": f"{config.get('max_position_embeddings')} tokens",
        **_ids(_tokenizer(path)),
    }
    problems = ("transformers and vLLM do not load this layout",)
    command = f"galen convert v15 {quote(str(path))}"
    stock = f"{command} --vision-tower stock --tower CLIP-VIT-LARGE-PATCH14-336 --out DIR"
    advice = [f"{command} --vision-tower checkpoint --out DIR", f"or: {stock}"]
    if own is None:
        advice = [stock]
    return Report("LLaVA-Med v1.5, original layout", facts, problems, advice=(*advice,))


def _hugging_face(path: Path, config: dict[str, Any]) -> Report:
    manifest = read_manifest(path)
    vision, text = _table(config, "vision_config"), _table(config, "text_config")
    kind = "LLaVA in Hugging Face layout"
    if manifest is not None:
        kind += f", converted from {manifest['sources'].get('checkpoint', {}).get('name', '?')} "
        kind += f"by {manifest['tool']} ({manifest['command']})"
    generation = _small_json(path / "generation_config.json")
    template = "its own" if (path / "chat_template.jinja").is_file() else "none"
    stops = generation.get("stop_strings") or []
    stops = stops if isinstance(stops, list) else [stops]
    facts = {
        "vision tower": f"{vision.get('model_type')}, {vision.get('image_size')} px",
        "projector": f"two layers, {config.get('projector_hidden_act')}",
        "conversation template": (manifest or {}).get("template", template),
        "images": config.get("image_aspect_ratio", "square"),
        "context": f"{text.get('max_position_embeddings')} tokens",
        "answers end at": ", ".join(map(repr, stops))
        or f"id {generation.get('eos_token_id', text.get('eos_token_id'))}",
        **_ids(_tokenizer(path)),
    }
    problems = (*_serving_problems(path, config),)
    return Report(kind, facts, problems, (*_serving_notes(config),))


def _serving_problems(path: Path, config: dict[str, Any]) -> Iterator[str]:
    """Yield what a worker would refuse, and what would go wrong without a refusal."""
    try:
        files = open_checkpoint(path)
        refuse_without_processor(path)
        if problem := why_incomplete(files):
            yield problem
        refuse_non_finite(files)
    except CheckpointError as error:
        yield str(error)
    except _WRONG_KIND as error:
        yield f"config.json holds an entry of a wrong kind ({error}): copy it again"
    try:
        mode_of(config)
    except ImageModeError as error:
        yield str(error)
    if not (path / "chat_template.jinja").is_file() and not _has_template(path):
        yield "no chat template: chats cannot be rendered (chat_template.jinja)"
    yield from _token_problems(path, config)


def _serving_notes(config: dict[str, Any]) -> Iterator[str]:
    with contextlib.suppress(*_WRONG_KIND):  # which `_serving_problems` has said
        if problem := why_model_not_on_vllm(config):
            yield problem
    if config.get("projector_hidden_act") in NO_ACTIVATION:
        yield (
            "`vllm serve` itself needs --hf-overrides "
            f"""'{{"projector_hidden_act": "{VLLM_NO_ACTIVATION}"}}'; Galen sets it"""
        )
    ratio = config.get("image_aspect_ratio", "square")
    if ratio in ("pad", "resize"):
        yield (
            f"images are prepared as {ratio!r} by Galen; plain transformers and `vllm serve` cut "
            "them instead"
        )


def _token_problems(path: Path, config: dict[str, Any]) -> Iterator[str]:
    tokenizer = _tokenizer(path)
    if tokenizer is None:
        return
    text = _table(config, "text_config")
    generation = _small_json(path / "generation_config.json")
    rows = text.get("vocab_size")
    if isinstance(rows, int) and tokenizer.size > rows:
        yield f"the tokenizer has {tokenizer.size} tokens, the embedding {rows} rows"
    eos = generation.get("eos_token_id", text.get("eos_token_id"))
    ends = eos if isinstance(eos, list) else [eos]
    found = tokenizer.special_id("eos_token")
    if found is not None and found not in ends and not generation.get("stop_strings"):
        yield f"answers would not end: eos_token_id is {eos}, the tokenizer's is {found}"
    image = config.get("image_token_index", config.get("image_token_id"))
    name = _small_json(path / "tokenizer_config.json").get("image_token")
    if isinstance(name, str) and tokenizer.id_of(name) != image:
        yield f"image_token_index is {image}, the tokenizer's {name!r} is {tokenizer.id_of(name)}"


def _said_wrongly(config: dict[str, Any], tokenizer: TokenizerFiles | None) -> list[str]:
    if tokenizer is None:
        return ["no tokenizer (tokenizer.model): copy it from where the weights are from"]
    found: list[str] = []
    for role in ("bos_token", "eos_token", "pad_token"):
        said, right = config.get(f"{role}_id"), tokenizer.special_id(role)
        if said is not None and right is not None and said != right:
            found.append(f"config.json's {role}_id is {said}, the tokenizer's {right}")
    return found


def _ids(tokenizer: TokenizerFiles | None) -> dict[str, str]:
    if tokenizer is None:
        return {"tokens": "no tokenizer"}
    special = {
        role.removesuffix("_token"): f"{token!r} ({tokenizer.id_of(token)})"
        for role, token in tokenizer.special.items()
    }
    for token in ("<im_patch>", "<im_start>", "<im_end>", "<image>"):
        if (index := tokenizer.id_of(token)) is not None:
            special[token] = str(index)
    return {"tokens": ", ".join(f"{role} {value}" for role, value in special.items())}


def _tokenizer(path: Path) -> TokenizerFiles | None:
    try:
        return read_tokenizer(path)
    except CheckpointError:
        return None


def _sizes(source: TensorSource) -> dict[str, str]:
    tensors = source.tensors.values()
    total = sum(tensor.num_bytes for tensor in tensors)
    types = Counter[str]()
    for tensor in tensors:
        types[tensor.dtype] += tensor.num_bytes
    shares = ", ".join(f"{name} {100 * size / total:.0f} %" for name, size in types.most_common())
    numbers = sum(numel(tensor.shape) for tensor in tensors)
    return {
        "weights": f"{numbers:,} in {len(source.tensors)} tensors, {decimal(total)} in "
        f"{len(source.files)} file(s)",
        "types": shares,
        "format": "pickles" if source.files[0].suffix == ".bin" else "safetensors",
    }


def _hash(path: Path, source: TensorSource, *, is_hashed: bool) -> str:
    manifest = read_manifest(path)
    said = None if manifest is None else manifest["result"]["hash"]
    if is_hashed:
        found = stored_hash(source)
        if said is not None:
            same = "as its manifest says" if said == found else f"its manifest says {said}: changed"
            return f"{found} ({same})"
        return found
    if said is not None:
        return f"{said} (of its manifest; --hash reads the weights)"
    if source.files[0].suffix == ".bin":
        return "not read (--hash)"
    found = sampled_fingerprint(CheckpointFiles(path, {}, read_tensors(path)))
    return f"{found} (sampled; --hash reads all)"


def _has_template(path: Path) -> bool:
    return any(
        "chat_template" in _small_json(path / name)
        for name in ("tokenizer_config.json", "processor_config.json", "chat_template.json")
    )


def _table(config: dict[str, Any], key: str) -> dict[str, Any]:
    found = config.get(key)
    return found if isinstance(found, dict) else {}


def _small_json(file: Path) -> dict[str, Any]:
    found: Any = read_json(file) if file.is_file() else {}
    return found if isinstance(found, dict) else {}
