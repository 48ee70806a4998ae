"""How a checkpoint is loaded: quantised, by layers on devices, with which attention; or refused."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import infer_auto_device_map
from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt
from safetensors.torch import load_file, save_file
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig
from transformers.masking_utils import flash_attention_mask
from transformers.modeling_flash_attention_utils import _upad_input

from modeling.tiny import EOS_ID, PAD_ID, make_tiny_llava
from services.worker.engines.base import EngineStartError
from services.worker.engines.checkpoint import (
    eos_ids_of,
    limit_memory,
    load_checkpoint,
    load_model,
    load_processor,
    stop_strings_of,
)
from services.worker.engines.transformers_engine import TransformersEngine
from services.worker.load_options import LoadOptions
from tests.worker.engine_harness import job, picture, running

TOKENS = torch.arange(4, 40)[None]


def options(**given: Any) -> LoadOptions:
    return LoadOptions(**{"device": "cpu", **given})


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=TOKENS).logits[0].float()


@pytest.mark.parametrize(
    ("quantization", "kind", "least_cosine"),
    [
        ("bnb-int8", Linear8bitLt, 0.99),
        ("bnb-nf4", Linear4bit, 0.85),
        ("bnb-fp4", Linear4bit, 0.75),
    ],
)
async def test_only_the_language_model_is_quantised(
    tiny_llava: Path, quantization: str, kind: type, least_cosine: float
) -> None:
    plain = load_model(tiny_llava, options())
    model = load_model(tiny_llava, options(quantization=quantization))
    found = {name for name, module in model.named_modules() if isinstance(module, kind)}
    # two layers of four matrices of attention and three of the MLP
    assert len(found) == 14
    assert all(name.startswith("model.language_model.layers.") for name in found)

    cosine = torch.cosine_similarity(logits_of(plain), logits_of(model), dim=-1).mean()
    assert cosine > least_cosine

    def engine() -> TransformersEngine:
        load = options(quantization=quantization)
        return TransformersEngine(tiny_llava, "tiny", 4, load=load)

    async with running(engine) as started:
        (answer,) = await started.run(job("a", images=[picture(1)], max_tokens=4))
        assert answer.finished.completion_tokens == 4


@pytest.mark.parametrize("family", ["tiny_gemma3", "tiny_paddleocr_vl"])
def test_other_families_are_quantised_in_their_language_model_too(
    family: str, request: pytest.FixtureRequest
) -> None:
    model = load_model(request.getfixturevalue(family), options(quantization="bnb-nf4"))
    found = [name for name, m in model.named_modules() if isinstance(m, Linear4bit)]
    assert len(found) in (14, 21)
    assert all(name.startswith("model.language_model.layers.") for name in found)


async def test_a_device_map_answers_as_one_device_does(tiny_llava: Path) -> None:
    answers = []
    for load in (options(), options(device_map="auto")):
        engine = TransformersEngine(tiny_llava, "tiny", 4, load=load)
        async with running(lambda engine=engine: engine) as started:
            (answer,) = await started.run(job("a", images=[picture(1)]))
            answers.append(answer.token_ids)
    assert answers[0] == answers[1]


def test_a_device_map_keeps_layers_whole(tiny_llava: Path) -> None:
    model = load_model(tiny_llava, options())
    size = sum(p.nbytes for p in model.parameters())
    places = infer_auto_device_map(
        model,
        max_memory={0: size // 2, 1: size // 2, "cpu": size},
        no_split_module_classes=list(model._no_split_modules or ()),
    )
    assert len(set(places.values())) >= 2
    layers = [name for name in places if ".layers." in name]
    assert all(name.split(".layers.")[1].isdigit() for name in layers)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_is_chosen(tiny_llava: Path, attention: str) -> None:
    model = load_model(tiny_llava, options(attention=attention))
    assert model.config.get_text_config()._attn_implementation == attention


def test_flash_attention_says_what_is_missing(tiny_llava: Path) -> None:
    with pytest.raises(EngineStartError, match=r"flash-attn.*choose --attention sdpa"):
        load_model(tiny_llava, options(attention="flash_attention_2"))


def attention_of_cut_rows(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What flash-attn computes, row by row, behind transformers' own cutting of rows."""
    batch, length = query.shape[0], query.shape[2]
    if attention_mask is None:
        attention_mask = torch.ones(batch, key.shape[2], dtype=torch.bool)
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    query, key, value, _indices, (starts_q, starts_k), _most = _upad_input(
        query, key, value, attention_mask, length, None
    )
    rows = []
    for row in range(batch):
        q = query[starts_q[row] : starts_q[row + 1]].transpose(0, 1)
        k, v = (s[starts_k[row] : starts_k[row + 1]].transpose(0, 1) for s in (key, value))
        rows.append(
            scaled_dot_product_attention(
                q, k, v, is_causal=q.shape[1] > 1 and bool(module.is_causal), scale=scaling,
                enable_gqa=True,
            ).transpose(0, 1)
        )  # fmt: skip
    return torch.stack(rows), None


async def test_rows_are_cut_to_their_lengths_for_flash_attention(
    tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "cut_rows"
    AttentionInterface.register(name, attention_of_cut_rows)
    AttentionMaskInterface.register(name, flash_attention_mask)
    jobs = [job(f"r{n}", "x " * n, [picture(n)] * (n % 2), max_tokens=12) for n in range(5)]
    answers = []
    for attention in ("sdpa", name):
        load = options(attention=attention)
        async with running(lambda o=load: TransformersEngine(tiny_llava, "t", 4, load=o)) as it:
            answers.append([answer.token_ids for answer in await it.run(*jobs)])
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "cuda:7"}, r"torch sees \d cards; try cpu"),
        ({"device": "quantum"}, "is none of torch's"),
        ({"device": "cuda", "tensor_parallel_size": 2}, "torch sees 0 cards"),
    ],
)
def test_a_device_that_is_not_there_is_named(
    given: dict[str, Any], message: str, tiny_llava: Path
) -> None:
    with pytest.raises(EngineStartError, match=message):
        load_model(tiny_llava, options(**given))


@pytest.mark.parametrize(
    ("given", "cards"),
    [
        ({"device": "auto"}, [0]),
        ({"device": "cuda:2"}, [2]),
        ({"device": "cpu"}, []),
        ({"device": "auto", "device_map": "auto"}, [0, 1, 2, 3]),
        ({"device": "cuda", "tensor_parallel_size": 4}, [3]),  # as rank 3
        ({"device": "cpu", "tensor_parallel_size": 4}, []),
    ],
)
def test_memory_is_limited_on_the_cards_of_this_process_only(
    given: dict[str, Any], cards: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    limited: list[tuple[float, int]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda *call: limited.append(call)
    )
    limit_memory(options(**given))
    assert limited == []
    limit_memory(options(**given, memory_fraction=0.5))
    assert limited == [(0.5, card) for card in cards]


@pytest.mark.parametrize(
    ("generation", "text", "expected"),
    [
        ({"eos_token_id": [5, 6]}, 7, {5, 6}),
        ({"eos_token_id": 5}, 7, {5}),
        ({}, 7, {7}),
        (None, 7, {7}),
        (None, None, {EOS_ID}),  # the tokenizer's
    ],
)
def test_an_answer_ends_where_the_checkpoint_says(
    generation: dict[str, Any] | None,
    text: int | None,
    expected: set[int],
    tiny_llava: Path,
    tmp_path: Path,
) -> None:
    config = AutoConfig.from_pretrained(tiny_llava)
    config.get_text_config().eos_token_id = text
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert eos_ids_of(tmp_path, config, load_processor(tiny_llava)) == expected


@pytest.mark.parametrize(
    ("stop_strings", "expected"),
    [(None, ()), ("###", ("###",)), (["###", "</s>"], ("###", "</s>"))],
)
def test_stop_strings_are_a_text_or_a_list_of_them(
    stop_strings: object, expected: tuple[str, ...], tiny_llava: Path, tmp_path: Path
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"stop_strings": stop_strings}))
    assert stop_strings_of(tmp_path) == expected


@pytest.mark.parametrize("stop_strings", [7, "", [""], ["a", 7], {"a": 1}])
def test_other_stop_strings_are_refused(stop_strings: object, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps({"stop_strings": stop_strings}))
    with pytest.raises(EngineStartError, match="stop_strings must be a text or a list"):
        stop_strings_of(tmp_path)


def test_a_stop_string_that_is_a_special_token_ends_an_answer_as_one(
    tiny_llava: Path, tmp_path: Path
) -> None:
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"eos_token_id": EOS_ID, "stop_strings": ["<pad>", "###"]})
    )
    config = AutoConfig.from_pretrained(tiny_llava)
    processor = load_processor(tiny_llava)
    assert eos_ids_of(tmp_path, config, processor) == {EOS_ID, PAD_ID}


def test_weights_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    path = make_tiny_llava(tmp_path / "tiny")
    weights = load_file(path / "model.safetensors")
    (name,) = [name for name in weights if name.endswith("lm_head.weight")]
    weights[name][3, 5] = float("nan")
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineStartError, match=r"lm_head\.weight' holds NaN or infinity"):
        load_checkpoint(path, options())


@pytest.mark.parametrize("quantization", ["none", "bnb-nf4"])
def test_weights_that_are_in_no_file_are_not_drawn(tmp_path: Path, quantization: str) -> None:
    path = make_tiny_llava(tmp_path / "tiny")
    weights = load_file(path / "model.safetensors")
    del weights["language_model.model.norm.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineStartError, match=r"1 weights are in no file, .*norm\.weight"):
        load_model(path, options(quantization=quantization))


def test_a_refusal_reaches_whoever_starts_the_engine(tmp_path: Path) -> None:
    engine = TransformersEngine(tmp_path / "nothing", "tiny", 4)
    with pytest.raises(EngineStartError, match="is no directory"):
        asyncio.run(engine.start(lambda _: None, None))  # type: ignore[arg-type]
