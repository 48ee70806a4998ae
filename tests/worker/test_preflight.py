"""What is refused before an engine process is started; as a whole worker in test_supervisor.py."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from modeling.tensor_shapes import own_context
from modeling.tiny import make_tiny_llava
from services.worker.preflight import PreflightError, preflight
from services.worker.settings import WorkerSettings


def refusal(model_path: Path, **settings: Any) -> str:
    given = {"engine": "transformers", "model_path": model_path, **settings}
    with pytest.raises(PreflightError) as caught:
        preflight(WorkerSettings(**given))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_can_run_passes(tiny_llava: Path) -> None:
    for settings in ({}, {"tensor_parallel_size": 2}, {"quantization": "bnb-nf4"}):
        preflight(
            WorkerSettings(engine="transformers", model_path=tiny_llava, **settings)  # type: ignore[arg-type]
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization": "bnb-nf4", "tensor_parallel_size": 2}, "use --device-map auto"),
        ({"device_map": "auto", "tensor_parallel_size": 2}, "choose one of them"),
        ({"device": "cuda:1", "tensor_parallel_size": 2}, "CUDA_VISIBLE_DEVICES"),
        ({"tensor_parallel_size": 3}, "take one of 1, 2, or --device-map auto"),
        ({"attention": "flash_attention_2"}, "choose --attention sdpa"),
        ({"engine": "fake"}, "--engine transformers or --engine vllm"),
        ({"engine": "vllm", "quantization": "bnb-int8"}, "use --engine transformers"),
    ],
)
def test_what_does_not_go_together_is_said(
    settings: dict[str, Any], message: str, tiny_llava: Path
) -> None:
    assert message in refusal(tiny_llava, **settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_aspect_ratio": "keep"}, "takes images of one size only"),
        ({"vision_config": {"model_type": "vit"}}, "no vision tower of type 'vit'"),
    ],
)
def test_a_model_that_vllm_does_not_know_is_refused_before_it_is_loaded(
    change: dict[str, Any], message: str, tiny_llava: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(tiny_llava, tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | change))
    found = refusal(path, engine="vllm", check_memory=False)
    assert message in found
    assert "--engine transformers" in found


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
@pytest.mark.parametrize("context", [2049, 999_999])
def test_a_context_beyond_the_models_own_is_refused_with_its_limit_not_with_memory(
    engine: str, context: int, tiny_llava: Path
) -> None:
    assert refusal(tiny_llava, engine=engine, context_length=context) == (
        f"{tiny_llava.name}: --context-length (GALEN_WORKER_CONTEXT_LENGTH) {context} exceeds the "
        "model's own limit of 2048 tokens; take at most 2048, or leave it out"
    )


def test_the_longest_context_of_a_model_passes(tiny_llava: Path) -> None:
    preflight(WorkerSettings(engine="transformers", model_path=tiny_llava, context_length=2048))


@pytest.mark.parametrize(
    ("config", "own"),
    [
        ({"model_type": "llava", "text_config": {"max_position_embeddings": 4096}}, 4096),
        ({"model_type": "llava", "text_config": {}}, 2048),
        ({"model_type": "llava", "text_config": {"model_type": "qwen2"}}, 32_768),
        ({"model_type": "llava_mistral", "max_position_embeddings": 32_768}, 32_768),
        ({"model_type": "novel", "text_config": {"model_type": "novel"}}, None),
    ],
)
def test_the_own_context_of_a_model_is_read_or_its_architectures_default(
    config: dict[str, Any], own: int | None
) -> None:
    assert own_context(config) == own


def test_weights_that_are_no_numbers_are_named_before_anything_is_loaded(tmp_path: Path) -> None:
    path = make_tiny_llava(tmp_path / "tiny")
    weights = load_file(path / "model.safetensors")
    (name,) = [name for name in weights if name.endswith("lm_head.weight")]
    weights[name][3, 5] = float("inf")
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    assert f"{name!r} holds NaN or infinity" in refusal(path)


def test_a_checkpoint_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = make_tiny_llava(tmp_path / "tiny")
    blob = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(blob[: len(blob) // 2])
    assert "is damaged" in refusal(path)


@pytest.fixture
def huge(tiny_llava: Path, tmp_path: Path) -> Path:
    """A checkpoint of half a TiB, of which nothing but the header takes any room."""
    path = Path(shutil.copytree(tiny_llava, tmp_path / "huge"))
    file = path / "model.safetensors"
    blob = file.read_bytes()
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    size = len(blob) - 8 - length
    entry = {"dtype": "BF16", "shape": [1 << 20, 1 << 18], "data_offsets": [size, size + (1 << 39)]}
    header["language_model.model.layers.0.mlp.gate_proj.more.weight"] = entry
    encoded = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        stream.truncate(8 + len(encoded) + size + (1 << 39))
    return path


@pytest.mark.parametrize("ranks", [1, 2])
def test_what_does_not_fit_is_refused_with_the_numbers(huge: Path, ranks: int) -> None:
    said = refusal(huge, device="cpu", tensor_parallel_size=ranks)
    assert "does not fit on main memory with" in said
    assert "weights, " in said
    assert "are missing" in said


def test_the_check_of_memory_can_be_left_out(huge: Path) -> None:
    preflight(
        WorkerSettings(engine="transformers", model_path=huge, device="cpu", check_memory=False)
    )
