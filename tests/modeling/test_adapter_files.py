"""Adapters made by PEFT, as they are and spoilt in one way each."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling.adapter_files import (
    AdapterError,
    AdapterFiles,
    module_key,
    open_adapter,
    rank_and_alpha,
)
from modeling.checkpoint_files import CheckpointFiles, open_checkpoint, sampled_fingerprint
from modeling.tiny import make_tiny_llava
from tests.support.adapters import make_adapter

Q = "base_model.model.model.language_model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def base(base_path: Path) -> CheckpointFiles:
    return open_checkpoint(base_path)


@pytest.fixture(scope="module")
def sound(base_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapters") / "sound"
    return make_adapter(base_path, out, seed=1, targets=r".*language_model.*\.(q_proj|v_proj)")


@pytest.fixture
def adapter(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "chest")


def opened(path: Path, base: CheckpointFiles | None, **other: Any) -> AdapterFiles:
    options: dict[str, Any] = {
        "base_id": "llava",
        "max_rank": 64,
        "base_fingerprint": lambda: sampled_fingerprint(base) if base is not None else "",
        **other,
    }
    return open_adapter(path, base, **options)


def set_config(path: Path, **settings: object) -> None:
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


def change_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = path / "adapter_model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)


def rename(path: Path, old: str, new: str) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace(old, new)] = tensors.pop(name)

    change_tensors(path, change)


def set_manifest(path: Path, manifest: object) -> None:
    (path / "galen_adapter.json").write_text(json.dumps(manifest))


def test_adapter_without_a_manifest_is_taken_but_unverified(
    adapter: Path, base: CheckpointFiles
) -> None:
    found = opened(adapter, base)

    assert (found.name, found.served_id, found.rank) == ("chest", "llava:chest", 4)
    assert not found.is_base_verified
    assert len(found.tensors) == 8


def test_manifest_with_the_right_fingerprint_verifies_the_base(
    adapter: Path, base: CheckpointFiles
) -> None:
    set_manifest(
        adapter, {"served_id": "chest-xray", "base_fingerprint": sampled_fingerprint(base)}
    )

    found = opened(adapter, base)

    assert (found.served_id, found.is_base_verified) == ("chest-xray", True)


def test_fingerprint_is_not_computed_without_need(adapter: Path, base: CheckpointFiles) -> None:
    def fail() -> str:
        raise AssertionError("4 KiB of every tensor were read")

    assert not opened(adapter, base, base_fingerprint=fail).is_base_verified


def test_both_ways_to_name_a_language_model_are_taken(adapter: Path, base: CheckpointFiles) -> None:
    rename(adapter, "model.language_model.layers", "language_model.model.layers")

    assert opened(adapter, base).rank == 4


def test_without_a_base_shapes_are_not_compared(adapter: Path) -> None:
    assert opened(adapter, None).served_id == "llava:chest"


def test_patterns_say_rank_and_alpha_of_their_modules(
    base_path: Path, base: CheckpointFiles, tmp_path: Path
) -> None:
    path = make_adapter(
        base_path, tmp_path / "p", seed=2, rank=2,
        rank_pattern={"k_proj": 8}, alpha_pattern={"layers.1.self_attn.k_proj": 3},
    )  # fmt: skip

    found = opened(path, base)

    prefix = "model.language_model.layers"
    assert found.rank == 8
    assert rank_and_alpha(found.config, f"{prefix}.0.self_attn.k_proj") == (8, 8)
    assert rank_and_alpha(found.config, f"{prefix}.1.self_attn.k_proj") == (8, 3)
    assert rank_and_alpha(found.config, f"{prefix}.1.self_attn.q_proj") == (2, 8)


def test_rank_above_the_limit_is_refused(adapter: Path, base: CheckpointFiles) -> None:
    with pytest.raises(AdapterError, match="rank 4, this worker takes 2"):
        opened(adapter, base, max_rank=2)


def test_adapter_of_a_wider_base_is_refused(adapter: Path, base: CheckpointFiles) -> None:
    name = "language_model.model.layers.0.self_attn.q_proj.weight"
    wide = replace(base.tensors[name], shape=(256, 256))
    other = replace(base, tensors={**base.tensors, name: wide})

    with pytest.raises(AdapterError, match=r"another base.*128x128, this base has 256x256"):
        opened(adapter, other)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda p: (p / "adapter_model.safetensors").unlink(), "no adapter_model.safe"),
    "no config": (lambda p: (p / "adapter_config.json").unlink(), "no adapter_config.json"),
    "config is no JSON": (lambda p: (p / "adapter_config.json").write_text("{"), "not readable"),
    "config is a list": (lambda p: (p / "adapter_config.json").write_text("[]"), "no JSON object"),
    "pickle": (lambda p: (p / "adapter_model.bin").write_bytes(b"x"), "may be a pickle"),
    "code": (lambda p: (p / "modeling.py").write_text(""), "is code"),
    "auto_map": (lambda p: set_config(p, auto_map={"AutoModel": "m.M"}), "auto_map"),
    "cut short": (lambda p: cut(p / "adapter_model.safetensors"), "is damaged"),
    "other method": (lambda p: set_config(p, peft_type="IA3"), "IA3 adapter"),
    "other task": (lambda p: set_config(p, task_type="SEQ_CLS"), "task SEQ_CLS"),
    "DoRA": (lambda p: set_config(p, use_dora=True), "uses DoRA"),
    "bias": (lambda p: set_config(p, bias="all"), "trains biases"),
    "lora_bias": (lambda p: set_config(p, lora_bias=True), "trains biases"),
    "whole modules": (lambda p: set_config(p, modules_to_save=["lm_head"]), "whole modules"),
    "tokens": (lambda p: set_config(p, trainable_token_indices=[3]), "single tokens"),
    "layers": (lambda p: set_config(p, layer_replication=[[0, 2]]), "repeats layers"),
    "bare parameters": (lambda p: set_config(p, target_parameters=["w"]), "bare parameters"),
    "later setting": (lambda p: set_config(p, use_new_thing=True), "not known here"),
    "PiSSA": (lambda p: set_config(p, init_lora_weights="pissa"), "changing the base"),
    "rank of words": (lambda p: set_config(p, r="many"), "r must be a positive number"),
    "no rank": (lambda p: set_config(p, r=0), "r must be a positive number"),
    "bad pattern": (lambda p: set_config(p, rank_pattern={"(": 4}), "is no pattern"),
    "lying rank": (lambda p: set_config(p, r=8), "rank 4 in A and 4 in B.*says 8"),
    "missing target": (
        lambda p: set_config(p, target_modules=["q_proj", "v_proj", "gate_proj"]),
        "'gate_proj' has no weights",
    ),
    "half a pair": (
        lambda p: change_tensors(p, lambda t: t.pop(f"{Q}.lora_B.weight")),
        "only one of A and B",
    ),
    "whole weight": (
        lambda p: change_tensors(p, lambda t: t.update({f"{Q}.weight": torch.zeros(2, 2)})),
        "would have no effect",
    ),
    "magnitudes": (
        lambda p: change_tensors(
            p, lambda t: t.update({f"{Q}.lora_magnitude_vector.weight": torch.zeros(2)})
        ),
        "would have no effect",
    ),
    "integers": (
        lambda p: change_tensors(
            p, lambda t: t.update({f"{Q}.lora_A.weight": torch.zeros(4, 128, dtype=torch.int32)})
        ),
        "no matrix of F32",
    ),
    "NaN": (
        lambda p: change_tensors(p, lambda t: t[f"{Q}.lora_B.weight"].fill_(float("nan"))),
        "holds NaN or infinity",
    ),
    "empty": (lambda p: change_tensors(p, lambda t: t.clear()), "holds no weights"),
    "layer too many": (
        lambda p: rename(p, ".layers.1.", ".layers.7."), "which this base does not have",
    ),
    "names of a language model alone": (
        lambda p: rename(p, "model.language_model.layers", "model.layers"),
        "which this base does not have",
    ),
    "manifest is a list": (lambda p: set_manifest(p, []), "no JSON object"),
    "manifest, unknown key": (lambda p: set_manifest(p, {"served": "x"}), "unknown key 'served'"),
    "manifest, number": (lambda p: set_manifest(p, {"served_id": 3}), "every value is a text"),
    "manifest, odd name": (lambda p: set_manifest(p, {"served_id": "a b"}), "served_id takes"),
    "fingerprint of another base": (
        lambda p: set_manifest(p, {"base_fingerprint": "0" * 64}), "adapter of another base",
    ),
}  # fmt: skip


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("how", SPOILT)
def test_what_would_not_act_or_fit_is_refused_in_one_line(
    adapter: Path, base: CheckpointFiles, how: str
) -> None:
    spoil, reason = SPOILT[how]
    spoil(adapter)

    with pytest.raises(AdapterError, match=reason) as caught:
        opened(adapter, base)

    assert "\n" not in str(caught.value)
    assert "chest" in str(caught.value)


def test_odd_folder_name_is_refused(adapter: Path, base: CheckpointFiles) -> None:
    with pytest.raises(AdapterError, match="name the folder"):
        opened(adapter.rename(adapter.parent / "a b"), base)


def test_one_key_for_all_paths_of_a_module() -> None:
    paths = (
        "language_model.model.layers.3.mlp.up_proj",
        "model.language_model.layers.3.mlp.up_proj",
        "model.layers.3.mlp.up_proj",
    )

    assert {module_key(path) for path in paths} == {"layers.3.mlp.up_proj"}
    assert module_key("vision_tower.vision_model.encoder.layers.3.mlp.fc1") == module_key(
        "model.vision_tower.encoder.layers.3.mlp.fc1"
    )
