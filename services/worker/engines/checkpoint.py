"""Opening a Hugging Face checkpoint safely: no code from it, no pickles, nothing from the network.

Lives here: the checks before loading, loading, and the few facts about a model that the engines
need; vLLM's loads its own weights, and asks here for the rest. What does *not* live here: running
it (`model_runner.py`).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.tensor import DTensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.utils import logging as transformers_logging

from modeling.checkpoint_files import CheckpointError, open_checkpoint, read_json
from modeling.image_recipe import ImageModeError, recipe_of
from modeling.sharding import why_not_divisible
from services.protocol.messages import ImageRecipe
from services.worker.engines.base import EngineStartError
from services.worker.engines.quantization import check_quantized, quantization_config
from services.worker.engines.sharding_plan import tensor_parallel_plan
from services.worker.load_options import LoadOptions, why_impossible

_DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
_SAFE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
# Without a figure of its own, a checkpoint gets the context of the Llama family's first release.
_DEFAULT_CONTEXT = 2048


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model with what the engine has to know of it.

    Args:
        eos_ids: tokens that end an answer, as its `generate` takes them.
        stop_strings: texts that do, by its generation_config.json.
        context_length: tokens, prompt and answer together.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    eos_ids: frozenset[int]
    stop_strings: tuple[str, ...]
    image_token_id: int | None
    context_length: int
    image_recipe: ImageRecipe | None
    created: int


def load_checkpoint(path: Path, options: LoadOptions) -> Checkpoint:
    """Load any image-text-to-text checkpoint in Hugging Face layout.

    With `tensor_parallel_size` > 1 this process must be a rank of its group already.

    Raises:
        EngineStartError: the directory is refused, or is no such checkpoint.
    """
    model = load_model(path, options)
    processor = load_processor(path)
    return Checkpoint(
        model=model,
        processor=processor,
        tokenizer=tokenizer_of(processor),
        device=model.device,
        eos_ids=eos_ids_of(path, model.config, processor),
        stop_strings=stop_strings_of(path),
        image_token_id=image_token_id_of(model.config, processor),
        context_length=_context_length(model.config, options.max_context),
        image_recipe=image_recipe_of(path, processor),
        created=int((path / "config.json").stat().st_mtime),
    )


def load_model(path: Path, options: LoadOptions) -> PreTrainedModel:
    """Load the weights alone, or this rank's part of them.

    Raises:
        EngineStartError: as `load_checkpoint` says.
    """
    check_options(path, options)
    limit_memory(options)
    transformers_logging.disable_progress_bar()
    config: PretrainedConfig = _load(path, lambda: AutoConfig.from_pretrained(path, **_SAFE))
    how: dict[str, Any] = {"dtype": _DTYPES.get(options.dtype, "auto"), **_placing(config, options)}
    if options.attention != "auto":
        how["attn_implementation"] = options.attention
    if options.quantization != "none":
        how["quantization_config"] = _load(
            path, lambda: quantization_config(options.quantization, config)
        )
    model: PreTrainedModel
    loading: dict[str, Any]
    model, loading = _load(
        path,
        lambda: AutoModelForImageTextToText.from_pretrained(
            path, config=config, use_safetensors=True, output_loading_info=True, **_SAFE, **how
        ),
    )
    _refuse_incomplete(path, loading)
    _refuse_offloaded(model)
    if options.quantization != "none":
        check_quantized(model)
    model.eval()
    refuse_non_finite(model)
    return model


def load_processor(path: Path) -> ProcessorMixin:
    """Load a checkpoint's processor: templates, a fast tokenizer, images by PIL.

    Raises:
        EngineStartError: there is none, or it lacks a fast tokenizer or a chat template.
    """
    processor = _load(path, lambda: AutoProcessor.from_pretrained(path, backend="pil", **_SAFE))
    if getattr(tokenizer_of(processor), "backend_tokenizer", None) is None:
        raise EngineStartError(f"{path} has no fast tokenizer (tokenizer.json); convert it first")
    if not getattr(processor, "chat_template", None):
        raise EngineStartError(f"{path} has no chat template; add chat_template.jinja to it")
    return processor


def _placing(config: PretrainedConfig, options: LoadOptions) -> dict[str, Any]:
    """Return the options of `from_pretrained` that say which device gets what."""
    ranks = options.tensor_parallel_size
    if ranks > 1:
        if problem := why_not_divisible(config.to_dict(), ranks):  # with its defaults filled in
            raise EngineStartError(problem)
        plan = tensor_parallel_plan(config, ranks)
        return {"distributed_config": DistributedConfig(tp_size=ranks, tp_plan=plan)}
    if options.device_map == "auto":
        return {"device_map": "auto"}
    return {"device_map": {"": choose_device(options.device)}}  # straight to where it is to be


def check_options(path: Path, options: LoadOptions) -> None:
    """Refuse what cannot be, before anything is loaded.

    Raises:
        EngineStartError: with what was wrong and what would do.
    """
    if problem := why_impossible(options):
        raise EngineStartError(problem)
    try:
        files = open_checkpoint(path)
    except CheckpointError as error:
        raise EngineStartError(str(error)) from error
    ranks = options.tensor_parallel_size
    if ranks == 1:
        choose_device(options.device)
        return
    if problem := why_not_divisible(files.config, ranks):
        raise EngineStartError(problem)
    _check_cards(options.device, ranks)


def _check_cards(device: str, ranks: int) -> None:
    """Compare the ranks with the cards that are there; transformers shards over cards if it can."""
    cards = torch.cuda.device_count()
    is_on_cards = choose_device(device).type == "cuda"
    if is_on_cards and cards < ranks:
        raise EngineStartError(
            f"--tensor-parallel-size {ranks} needs {ranks} cards, this process sees {cards}; "
            "lower it, or run on the CPU with --device cpu"
        )
    if cards and not is_on_cards:
        raise EngineStartError(
            f"--device {device} with --tensor-parallel-size {ranks}: hide the cards with "
            "CUDA_VISIBLE_DEVICES= (an empty value)"
        )


def _refuse_incomplete(path: Path, loading: dict[str, Any]) -> None:
    """Raise EngineStartError where weights were not in the files: transformers draws them."""
    if missing := sorted(loading["missing_keys"]):
        raise EngineStartError(
            f"{path} is incomplete: {len(missing)} weights are in no file, {missing[0]!r} among "
            "them; copy or convert it again"
        )


def limit_memory(options: LoadOptions) -> None:
    """Let torch take no more of each card than asked: what is beside us there keeps its part."""
    if options.memory_fraction is not None:
        for card in _cards_of(options):
            torch.cuda.set_per_process_memory_fraction(options.memory_fraction, card)


def _cards_of(options: LoadOptions) -> Sequence[int]:
    """Return the cards that this process uses: to name any other would take memory on it."""
    if options.device_map == "auto":
        return range(torch.cuda.device_count())
    device = choose_device(options.device)
    if device.type != "cuda":
        return ()
    if options.tensor_parallel_size > 1:
        return (distributed.get_rank(),)
    return (device.index,)


def _refuse_offloaded(model: PreTrainedModel) -> None:
    """Raise EngineStartError where a device map put layers into memory beside the cards."""
    places = getattr(model, "hf_device_map", None) or {}
    cards = {place for place in places.values() if str(place) not in ("cpu", "disk")}
    beside = [name for name, place in places.items() if str(place) in ("cpu", "disk")]
    if cards and beside:
        raise EngineStartError(
            f"{len(beside)} parts of the model do not fit the cards with --device-map auto: "
            "take more cards or --quantization bnb-nf4"
        )


def refuse_non_finite(model: torch.nn.Module) -> None:
    """Raise EngineStartError with the name of the first weight that holds NaN or infinity."""
    for name, parameter in model.named_parameters():
        local = _local(parameter)
        if local.is_floating_point() and not bool(torch.isfinite(local).all()):
            raise EngineStartError(
                f"the weight {name!r} holds NaN or infinity: the checkpoint is damaged; "
                "copy or convert it again"
            )


def weight_bytes(model: torch.nn.Module) -> int:
    """Return the bytes of the weights that this process holds, of a sharded model its part."""
    return sum(_local(parameter).nbytes for parameter in model.parameters())


def _local(parameter: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a sharded weight."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _load(path: Path, load: Callable[[], Any]) -> Any:
    """Call a loader of transformers; its failures become one line."""
    try:
        return load()
    except torch.OutOfMemoryError as error:
        raise EngineStartError(
            f"{path} does not fit the card: take a larger card or more of them "
            "(--tensor-parallel-size, --device-map auto), or --quantization bnb-nf4"
        ) from error
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()
        raise EngineStartError(
            f"{path} does not load as an image-text-to-text checkpoint in Hugging Face layout "
            f"({type(error).__name__}: {reason[0][:200] if reason else ''})"
        ) from error


def text_config_of(config: PretrainedConfig) -> PretrainedConfig:
    """Return the language model's part of a configuration."""
    return config.get_text_config(decoder=True)


def image_recipe_of(path: Path, processor: ProcessorMixin) -> ImageRecipe | None:
    """Return how a checkpoint's images are preprocessed; None where the processor alone knows it.

    Raises:
        EngineStartError: config.json asks for what cannot be done.
    """
    try:
        config = read_json(path / "config.json")
        recipe = recipe_of(config, getattr(processor, "image_processor", None))
    except (CheckpointError, ImageModeError) as error:
        raise EngineStartError(f"{path}: {error}") from error
    return None if recipe is None else ImageRecipe(**asdict(recipe))


def choose_device(device: str) -> torch.device:
    """Return a device that is there; raises EngineStartError where there is none of that name."""
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise EngineStartError(
            f"device {device!r} is none of torch's; try cpu or cuda:0"
        ) from error
    if chosen.type != "cuda":
        return chosen
    index, cards = chosen.index or 0, torch.cuda.device_count()
    if index >= cards:
        raise EngineStartError(f"device {device!r}: torch sees {cards} cards; try cpu")
    return torch.device("cuda", index)


def tokenizer_of(processor: ProcessorMixin) -> Any:  # its class has no such attribute
    """Return a processor's tokenizer; None where it has none (`load_processor` refuses that)."""
    return getattr(processor, "tokenizer", None)


def eos_ids_of(path: Path, config: PretrainedConfig, processor: ProcessorMixin) -> frozenset[int]:
    """Return the tokens that end an answer, as transformers' `generate` takes them.

    A stop string that is a special token is among them: special tokens have no text to look in.

    Raises:
        EngineStartError: generation_config.json is damaged.
    """
    tokenizer = tokenizer_of(processor)
    found: Any = _generation_config(path).get("eos_token_id")
    for holder in (text_config_of(config), config, tokenizer):
        if found is None:
            found = getattr(holder, "eos_token_id", None)
    ids = [] if found is None else [found] if isinstance(found, int) else found
    stops = set(stop_strings_of(path))
    added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
    special = [i for i, token in added.items() if token.special and token.content in stops]
    return frozenset([*ids, *special])


def stop_strings_of(path: Path) -> tuple[str, ...]:
    """Return the texts that end an answer: `stop_strings` of generation_config.json.

    Raises:
        EngineStartError: they are neither a text nor a list of texts.
    """
    found = _generation_config(path).get("stop_strings")
    stops = [] if found is None else [found] if isinstance(found, str) else found
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise EngineStartError(
            f"{path / 'generation_config.json'}: stop_strings must be a text or a list of texts, "
            "none of them empty; correct it, or take it out"
        )
    return tuple(stops)


def _generation_config(path: Path) -> dict[str, Any]:
    file = path / "generation_config.json"
    found = _load(path, lambda: json.loads(file.read_text("utf-8"))) if file.is_file() else {}
    return found if isinstance(found, dict) else {}


def image_token_id_of(config: PretrainedConfig, processor: ProcessorMixin) -> int | None:
    """Return the id of the placeholder of images."""
    for holder in (config, processor):
        for name in ("image_token_id", "image_token_index"):
            found = getattr(holder, name, None)
            if isinstance(found, int):
                return found
    return None


def _context_length(config: PretrainedConfig, max_context: int | None) -> int:
    own = getattr(text_config_of(config), "max_position_embeddings", None)
    if max_context is None:
        return own or _DEFAULT_CONTEXT
    if own is not None and max_context > own:
        raise EngineStartError(f"max_context {max_context}: the model has {own} tokens; lower it")
    return max_context
