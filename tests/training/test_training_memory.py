"""Memory of a run against the bytes of a real, tiny model after one step."""

import gc
from pathlib import Path

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from modeling.model_shape import ModelShape, read_shape
from modeling.tiny import IMAGE_ID, TinySizes, make_tiny_llava
from tests.training.trainable_copies import trainable_copy
from training.config import TrainConfig, read_recipe
from training.errors import TrainingError
from training.training_memory import ForwardPass, TrainingMemory, training_memory
from training.weight_counts import count_weights

NEEDED = ("model.path=x", "data.files=[x.json]", "output.folder=y", "lora.rank=8")
NUM_ROWS, NUM_PATCHES, TOKENS = 2, 16, 128
WORK = ForwardPass(NUM_ROWS * TOKENS, NUM_ROWS * TOKENS, NUM_ROWS)
NAMES = ("stage1_align", "stage2_instruct", "stage2_lora")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sizes = TinySizes(text_layers=6)
    return make_tiny_llava(tmp_path_factory.mktemp("memory") / "tiny", sizes=sizes)


@pytest.fixture(scope="module")
def shape(checkpoint: Path) -> ModelShape:
    return read_shape(str(checkpoint))


@pytest.fixture(scope="module")
def base(checkpoint: Path) -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.bfloat16)


@pytest.mark.parametrize("name", NAMES)
def test_weights_gradients_and_moments_are_exact(
    name: str, shape: ModelShape, base: LlavaForConditionalGeneration
) -> None:
    config = _recipe(name, "train.new_tokens=[]")
    model = _trainable(base, config)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    _loss(model).backward()
    optimizer.step()
    moments = [
        tensor
        for state in optimizer.state.values()
        for key, tensor in state.items()
        if key.startswith("exp_avg")
    ]

    found = training_memory(shape, config, WORK, num_cards=1)

    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    assert found.frozen == sum(weight.nbytes for weight in frozen)
    assert found.trained == sum(weight.nbytes for weight in trained)
    assert found.gradients == sum(w.grad.nbytes for w in trained if w.grad is not None)
    assert found.optimizer == sum(moment.nbytes for moment in moments)


@pytest.mark.parametrize("name", NAMES)
def test_activations_are_bounded_by_what_is_forecast(
    name: str, shape: ModelShape, base: LlavaForConditionalGeneration
) -> None:
    # A mask of dropout is one byte per number on a GPU, as it is forecast, and four on a CPU.
    config = _recipe(name, "model.gradient_checkpointing=false", "lora.dropout=0")
    kept = _bytes_kept(_trainable(base, config))

    found = training_memory(shape, config, WORK, num_cards=1)

    # Kept casts of trained matrices stand in `gathered`; the rest of a step is not kept.
    forecast = found.activations + found.logits + found.vision + found.gathered
    assert kept <= forecast <= 1.6 * kept


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_keeps_one_input_per_layer(name: str, shape: ModelShape) -> None:
    plain = _memory(shape, name, "model.gradient_checkpointing=false")
    saved = _memory(shape, name, "model.gradient_checkpointing=true")

    assert saved.activations < plain.activations / 2
    assert saved.peak < plain.peak


def test_four_bits_are_those_of_qlora(shape: ModelShape) -> None:
    found = _memory(shape, "stage2_qlora")
    plain = _memory(shape, "stage2_lora")

    matrices = shape.elements("matrices")
    bits = 8 * (found.frozen - (plain.frozen - 2 * matrices)) / matrices
    assert bits == pytest.approx(4 + 0.127, abs=1e-3)  # arXiv:2305.14314, section 3


def test_moments_in_eight_bits_take_two_bytes_and_their_scales(shape: ModelShape) -> None:
    found = _memory(shape, "stage2_instruct", "optimizer.kind=adamw_8bit")

    assert found.optimizer == pytest.approx(found.trained / 4 * 2.03, rel=0.01)


def test_full_sharding_divides_all_that_is_stored(shape: ModelShape) -> None:
    config = _recipe("stage2_instruct")
    one = training_memory(shape, config, WORK, num_cards=1)
    four = training_memory(shape, config, WORK, num_cards=4)

    for part in ("frozen", "trained", "gradients", "optimizer"):
        assert getattr(four, part) == pytest.approx(getattr(one, part) / 4, abs=1)
    assert four.activations == one.activations
    assert four.gathered > 0


def test_without_sharding_each_card_holds_everything(shape: ModelShape) -> None:
    config = _recipe("stage2_instruct", "devices.sharding=none")
    one = training_memory(shape, config, WORK, num_cards=1)

    assert training_memory(shape, config, WORK, num_cards=4).optimizer == one.optimizer


def test_single_precision_keeps_frozen_weights_in_it(shape: ModelShape) -> None:
    half = _memory(shape, "stage1_align")
    single = _memory(shape, "stage1_align", "model.precision=fp32")

    assert single.frozen == 2 * half.frozen
    assert single.trained == half.trained


def test_new_rows_are_trained_beside_a_frozen_embedding(shape: ModelShape) -> None:
    with_rows = count_weights(shape, _recipe("stage1_align"))
    without = count_weights(shape, _recipe("stage1_align", "train.new_tokens=[]"))

    assert with_rows.trained - without.trained == 2 * shape.hidden
    assert with_rows.frozen == without.frozen


def test_an_unknown_target_of_lora_is_one_line(shape: ModelShape) -> None:
    config = _recipe("stage2_lora", "lora.target_modules=[q_proj, query]")

    with pytest.raises(TrainingError, match="'query' is no linear layer of tiny; take some of q_"):
        count_weights(shape, config)


def _recipe(name: str, *settings: str) -> TrainConfig:
    return read_recipe(name, [*NEEDED, *settings])


def _memory(shape: ModelShape, name: str, *settings: str) -> TrainingMemory:
    return training_memory(shape, _recipe(name, *settings), WORK, num_cards=1)


def _trainable(
    base: LlavaForConditionalGeneration, config: TrainConfig
) -> LlavaForConditionalGeneration:
    """Return a copy with what the recipe trains in float32, the rest in bfloat16."""
    model = trainable_copy(base, config)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return model.train()


def _loss(model: LlavaForConditionalGeneration) -> torch.Tensor:
    ids = torch.randint(4, 200, (NUM_ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    ids[:, :NUM_PATCHES] = IMAGE_ID
    pixels = torch.zeros(NUM_ROWS, 3, 56, 56)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        output = model(input_ids=ids, pixel_values=pixels, labels=ids, use_cache=False)
    return output.loss


def _bytes_kept(model: LlavaForConditionalGeneration) -> int:
    """Return the bytes of all storages that autograd keeps, but for the weights themselves."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    gc.collect()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = _loss(model)
    assert loss.requires_grad
    return sum(storage.nbytes() for storage in kept.values())
