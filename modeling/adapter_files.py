"""A LoRA adapter in PEFT's layout, looked at without loading it, and checked against its base.

An adapter is a folder with `adapter_config.json`, `adapter_model.safetensors` and perhaps a
manifest of ours, `galen_adapter.json`. Lives here: what it may hold, and whether it fits its base:
everything in it must act, so what an engine would leave out is refused. No torch; of the weights
only that they are finite.
What does *not* live here: loading (the engines), and which folders there are
(`services/worker/adapters.py`).

Layout: PEFT 0.21, https://huggingface.co/docs/peft/developer_guides/checkpoint.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling.checkpoint_files import (
    CheckpointError,
    CheckpointFiles,
    TensorInfo,
    read_header,
    read_json,
    refuse_code,
)
from modeling.finite_weights import refuse_non_finite

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
MANIFEST_FILE = "galen_adapter.json"
TRAINED_BESIDE_FILE = "projector.safetensors"
"""What training writes beside an adapter: tensors that PEFT's layout has no place for."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SERVED_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,199}")
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_MANIFEST_KEYS = frozenset({"served_id", "base_fingerprint", "description"})
_FLOATS = frozenset({"F32", "F16", "BF16"})
_WRAPPERS = frozenset({"model", "language_model", "vision_model"})
"""Parts of a module's path that come and go between versions of transformers."""
_REFUSED: Mapping[str, str] = {
    "modules_to_save": "replaces whole modules",
    "trainable_token_indices": "trains single tokens",
    "layer_replication": "repeats layers",
    "use_dora": "uses DoRA",
    "lora_bias": "trains biases",
    "fan_in_fan_out": "is for Conv1D layers",
    "target_parameters": "adapts bare parameters",
}
_HARMLESS = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config",
    "ensure_weight_tying", "eva_config", "exclude_modules", "inference_mode", "init_lora_weights",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout",
    "lora_ga_config", "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r",
    "rank_pattern", "revision", "runtime_config", "target_modules", "task_type", "use_rslora",
})  # fmt: skip
"""Settings of PEFT that act in training only, or that are read here; others must be unset."""
_PLAIN_STARTS = frozenset({True, False, None, "gaussian", "eva", "orthogonal", "mica"})
"""Ways to begin a training that leave the base's weights as they are."""


class AdapterError(Exception):
    """An adapter is refused; the message is one line: what is wrong, and what to do."""


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """A checked adapter directory.

    Args:
        name: of its folder.
        served_id: the model name that clients ask for.
        config: adapter_config.json, parsed.
        tensors: by name, from its safetensors header.
        rank: the largest rank in it.
        is_base_verified: whether its manifest names the base's fingerprint, and that is right.
    """

    path: Path
    name: str
    served_id: str
    config: dict[str, Any]
    tensors: dict[str, TensorInfo]
    rank: int
    is_base_verified: bool


def open_adapter(
    path: Path,
    base: CheckpointFiles | None,
    base_id: str,
    max_rank: int,
    base_fingerprint: Callable[[], str],
    *,
    is_merged: bool = False,
) -> AdapterFiles:
    """Check an adapter's folder against its base.

    Args:
        base: None where the engine has no weights (the fake one): shapes are not compared.
        base_id: the name that the base is served under.
        base_fingerprint: returns `sampled_fingerprint` of the base; called only where the
            manifest names one.
        is_merged: it is not served, so what was trained beside it may lie there.

    Raises:
        AdapterError: it is incomplete or damaged, brings code, does not fit the base, or holds
            what would have no effect.
    """
    if not _NAME.fullmatch(path.name):
        raise AdapterError(
            f"{path}: name the folder with letters, digits, '.', '_' and '-' only (at most 100)"
        )
    try:
        for file in (CONFIG_FILE, WEIGHTS_FILE):
            if not (path / file).is_file():
                raise AdapterError(f"{path} has no {file}: not a complete adapter in PEFT's layout")
        if (path / TRAINED_BESIDE_FILE).is_file() and not is_merged:
            raise AdapterError(
                f"{path} was trained together with a projector ({TRAINED_BESIDE_FILE}), which no "
                "adapter brings along; serve the finished checkpoint, or merge the two with "
                "`galen train merge-lora`"
            )
        refuse_code(path)
        config = read_json(path / CONFIG_FILE)
        tensors = read_header(path / WEIGHTS_FILE)
        manifest = read_json(path / MANIFEST_FILE) if (path / MANIFEST_FILE).exists() else {}
    except CheckpointError as error:
        raise AdapterError(str(error)) from error
    except OSError as error:
        raise AdapterError(f"{path} is not readable ({type(error).__name__})") from error
    _check_config(path, config)
    served_id, fingerprint = _read_manifest(path, manifest, base_id)
    rank = _check_tensors(path, config, tensors, base)
    if rank > max_rank:
        raise AdapterError(
            f"{path} has rank {rank}, this worker takes {max_rank}; "
            "start it with a larger GALEN_WORKER_MAX_LORA_RANK"
        )
    if fingerprint is not None and fingerprint != base_fingerprint():
        raise AdapterError(
            f"{path} is an adapter of another base: {MANIFEST_FILE} names the fingerprint "
            f"{fingerprint[:12]}…, `{base_id}` has another"
        )
    _refuse_non_finite(CheckpointFiles(path, config, tensors))
    return AdapterFiles(path, path.name, served_id, config, tensors, rank, fingerprint is not None)


def _refuse_non_finite(files: CheckpointFiles) -> None:
    try:
        refuse_non_finite(files)
    except (CheckpointError, OSError) as error:
        raise AdapterError(str(error)) from error


def adapted_modules(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Return the paths of the modules that a checked adapter changes, as it writes them."""
    return sorted({found["module"] for name in tensors if (found := _TENSOR.fullmatch(name))})


def module_key(module: str) -> str:
    """Return what the paths of one module have in common over the versions of transformers.

    `language_model.model.layers.0.mlp.up_proj` (published LLaVA checkpoints) and
    `model.language_model.layers.0.mlp.up_proj` (transformers 5) are one module.
    """
    return ".".join(part for part in module.split(".") if part not in _WRAPPERS)


def rank_and_alpha(config: Mapping[str, Any], module: str) -> tuple[int, float]:
    """Return what the configuration says of one module, its patterns included."""
    rank = _of_pattern(config.get("rank_pattern"), module, config.get("r", 8))
    return int(rank), float(
        _of_pattern(config.get("alpha_pattern"), module, config.get("lora_alpha", 8))
    )


def _of_pattern(pattern: object, module: str, default: Any) -> Any:
    """As `peft.utils.other.get_pattern_key`: the first key that matches a path's end."""
    for key, value in pattern.items() if isinstance(pattern, dict) else ():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _check_config(path: Path, config: object) -> None:
    if not isinstance(config, dict):
        raise AdapterError(f"{path / CONFIG_FILE} holds no JSON object")
    kind = str(config.get("peft_type"))
    if kind != "LORA":
        raise AdapterError(f"{path} is a {kind[:40]} adapter; LORA ones are served")
    task = config.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise AdapterError(f"{path} is for the task {str(task)[:40]}; CAUSAL_LM ones are served")
    for key in sorted(key for key, value in config.items() if value and key not in _HARMLESS):
        what = _REFUSED.get(key, "has a setting that is not known here")
        raise AdapterError(f"{path} {what} ({key[:60]}); merge it into its base and serve that")
    if (config.get("bias") or "none") != "none":
        raise AdapterError(f"{path} trains biases (bias); merge it into its base and serve that")
    start = config.get("init_lora_weights")
    if not isinstance(start, bool | str | None) or start not in _PLAIN_STARTS:
        raise AdapterError(
            f"{path} began its training by changing the base (init_lora_weights "
            f"{str(start)[:40]!r}); convert it with PEFT to a plain LoRA adapter"
        )
    for key in ("r", "lora_alpha"):
        if not _is_positive(config.get(key, 8)):
            raise AdapterError(f"{path / CONFIG_FILE}: {key} must be a positive number")
    for key in ("rank_pattern", "alpha_pattern"):
        _check_pattern(path, key, config.get(key) or {})


def _check_pattern(path: Path, key: str, pattern: object) -> None:
    if not isinstance(pattern, dict) or not all(map(_is_positive, pattern.values())):
        raise AdapterError(f"{path / CONFIG_FILE}: {key} must name positive numbers")
    for expression in pattern:
        try:
            re.compile(expression)
        except re.error:
            raise AdapterError(
                f"{path / CONFIG_FILE}: {key} has a key that is no pattern"
            ) from None


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _read_manifest(path: Path, manifest: object, base_id: str) -> tuple[str, str | None]:
    """Return the served id, and the base's fingerprint where the manifest names one."""
    file = path / MANIFEST_FILE
    if not isinstance(manifest, dict):
        raise AdapterError(f"{file} holds no JSON object")
    if unknown := sorted(set(manifest) - _MANIFEST_KEYS):
        raise AdapterError(
            f"{file} has the unknown key {unknown[0][:40]!r}; known: "
            f"{', '.join(sorted(_MANIFEST_KEYS))}"
        )
    if any(not isinstance(value, str) for value in manifest.values()):
        raise AdapterError(f"{file}: every value is a text")
    served_id = manifest.get("served_id")
    if served_id is not None and not _SERVED_ID.fullmatch(served_id):
        raise AdapterError(
            f"{file}: served_id takes letters, digits and '._:/-' only (at most 200)"
        )
    return served_id or f"{base_id}:{path.name}", manifest.get("base_fingerprint")


def _check_tensors(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    base: CheckpointFiles | None,
) -> int:
    """Compare every pair of matrices with its base's weight; returns the largest rank."""
    sides: dict[str, dict[str, TensorInfo]] = {}
    for name, info in tensors.items():
        found = _TENSOR.fullmatch(name)
        if found is None:
            raise AdapterError(
                f"{path} holds {name[:200]!r}, which would have no effect; "
                "merge it into its base and serve that"
            )
        if info.dtype not in _FLOATS or len(info.shape) != 2:
            raise AdapterError(f"{path}: {name!r} is no matrix of F32, F16 or BF16")
        sides.setdefault(found["module"], {})[found["side"]] = info
    if not sides:
        raise AdapterError(f"{path} holds no weights")
    for target in _named_targets(config):
        if not any(module == target or module.endswith(f".{target}") for module in sides):
            raise AdapterError(
                f"{path} is incomplete: its target module {target[:100]!r} has no weights"
            )
    weights = None if base is None else _weights_by_module(base)
    ranks = [_check_pair(path, config, module, sides[module], weights) for module in sorted(sides)]
    return max(ranks)


def _named_targets(config: Mapping[str, Any]) -> list[str]:
    """Return the target modules where they are listed; none where a pattern describes them."""
    targets = config.get("target_modules")
    return [t for t in targets if isinstance(t, str)] if isinstance(targets, list) else []


def _check_pair(
    path: Path,
    config: Mapping[str, Any],
    module: str,
    pair: Mapping[str, TensorInfo],
    weights: Mapping[str, TensorInfo] | None,
) -> int:
    """Check one module's A [rank, in] and B [out, rank]; returns their rank."""
    if len(pair) != 2:
        raise AdapterError(f"{path} has only one of A and B for {module!r}: it is incomplete")
    rank, width_in = pair["A"].shape
    width_out, rank_of_b = pair["B"].shape
    said, _ = rank_and_alpha(config, module)
    if not rank == rank_of_b == said:
        raise AdapterError(
            f"{path}: {module!r} has rank {rank} in A and {rank_of_b} in B, "
            f"{CONFIG_FILE} says {said}"
        )
    if weights is None:
        return rank
    weight = weights.get(module_key(module))
    is_bare = module.startswith("model.layers.") and f"={module}" not in weights
    if weight is None or is_bare:  # a language model's own path: vLLM would leave it out
        raise AdapterError(f"{path} changes {module!r}, which this base does not have")
    if weight.shape != (width_out, width_in):
        raise AdapterError(
            f"{path} is an adapter of another base: {module!r} takes {width_out}x{width_in}, "
            f"this base has {'x'.join(map(str, weight.shape))}"
        )
    return rank


def _weights_by_module(base: CheckpointFiles) -> dict[str, TensorInfo]:
    """Index a base's weights by `module_key`, and by `=` and their own name."""
    found: dict[str, TensorInfo] = {}
    for name, info in base.tensors.items():
        if name.endswith(".weight"):
            module = name.removesuffix(".weight")
            found[module_key(module)] = found[f"={module}"] = info
    return found
