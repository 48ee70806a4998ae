"""What tensor parallelism shards beside the language model's layers, per architecture.

transformers' own plans cover the decoder layers of the language model. Vision tower, projector and
output layer of a LLaVA or a LLaVA-NeXT, whose modules have the same names, would be replicated on
every card: at 7B that is 0.9 GB of weights per card.
"""

from typing import Literal

from transformers import PretrainedConfig

from modeling.sharding import shards_vision_tower

# Column-wise: each rank computes a part of the outputs. Row-wise: of the inputs; then a sum.
_COLUMNS, _ROWS = "colwise", "rowwise"
_LAYER = "model.vision_tower.encoder.layers.*"
_CLIP_TOWER = {
    **{f"{_LAYER}.self_attn.{name}_proj": _COLUMNS for name in "qkv"},
    f"{_LAYER}.self_attn.out_proj": _ROWS,
    f"{_LAYER}.mlp.fc1": _COLUMNS,
    f"{_LAYER}.mlp.fc2": _ROWS,
}
_LLAVA_PROJECTOR = {
    "model.multi_modal_projector.linear_1": _COLUMNS,
    "model.multi_modal_projector.linear_2": _ROWS,
}


def tensor_parallel_plan(config: PretrainedConfig, ranks: int) -> dict[str, str] | Literal["auto"]:
    """Return rules beside the model's own, or "auto" where only those are known."""
    if not shards_vision_tower(config.to_dict()):
        return "auto"
    plan = {**_CLIP_TOWER, **_LLAVA_PROJECTOR}
    text = config.get_text_config(decoder=True)
    if text.vocab_size % ranks == 0 and not config.tie_word_embeddings:
        plan["lm_head"] = "colwise_gather_output"
    return plan
