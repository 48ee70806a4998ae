"""Rows put examples side by side so that each is computed as if it were alone."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlavaForConditionalGeneration

from modeling.prompt import IGNORE_INDEX, TokenisedPrompt
from modeling.tiny import IMAGE_ID, PAD_ID
from tests.training.small_runs import IMAGE_PX, NUM_PATCHES, Workshop
from training.llava_training import LlavaForTraining
from training.rows import PADDING, RowExample, Rows, attention_mask, flattened, make_rows
from training.segment_attention import spans_of, spans_where_quicker

TOLERANCE = 1e-5
IMAGE = [IMAGE_ID] * NUM_PATCHES
Made = list[list[RowExample]]


def example(ids: list[int], num_asked: int, *images: int, prefix: int = 0) -> RowExample:
    is_trained = [False] * num_asked + [True] * (len(ids) - num_asked)
    return RowExample(TokenisedPrompt(ids, is_trained), prefix, images)


def asks(number: int, *images: int, prefix: int = 0, wrapped: bool = False) -> RowExample:
    """A question after its images, as LLaVA-Med v1.0 wraps them if so wished."""
    around = ([50], [51]) if wrapped else ([], [])
    shown = [token for _ in images for token in (*around[0], *IMAGE, *around[1])]
    asked = [1, *shown, *range(60 + number, 64 + number)]
    return example([*asked, 7 + number, 9, 2], len(asked), *images, prefix=prefix)


ROWS: dict[str, Made] = {
    "text only": [[asks(0), asks(3)], [asks(5)]],
    "one image each": [[asks(0, 0), asks(3, 1)], [asks(5, 2)]],
    "mixed": [[asks(0), asks(3, 1), asks(4)], [asks(5, 0)], [asks(6)]],
    "several images": [[asks(0, 0, 1), asks(3, 1)], [asks(5, 2, 0, 1)]],
    "shared beginning": [
        [asks(0, 0, prefix=5), asks(3, 0, prefix=5), asks(4, 0, prefix=5), asks(9)],
        [asks(5, 1, prefix=5), asks(6, 0, prefix=5)],
    ],
    "beginnings of two images apart": [
        [asks(0, 0, prefix=5), asks(3, 1, prefix=5), asks(4, 0, prefix=5), asks(2, 1, prefix=5)]
    ],
    "shared beginning of several images": [
        [asks(0, 0, 1, prefix=9), asks(3, 0, 1, prefix=9), asks(3, 1, 0, prefix=9)]
    ],
    "start and end tokens": [
        [asks(0, 0, wrapped=True), asks(3, 1, wrapped=True)],
        [asks(5, 2, prefix=7, wrapped=True), asks(4, 2, prefix=7, wrapped=True)],
    ],
}


@pytest.fixture(scope="module")
def llava(workshop: Workshop) -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(
        workshop.base, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.randn((3, 3, IMAGE_PX, IMAGE_PX), generator=torch.Generator().manual_seed(0))


def logits_in_rows(
    llava: LlavaForConditionalGeneration, rows: Rows, pictures: torch.Tensor, *, is_flat: bool
) -> torch.Tensor:
    """Return all logits [R, L, V], as LlavaForTraining computes hidden states."""
    embeds = llava.get_input_embeddings()(rows.input_ids)
    if rows.images:
        model: Any = llava  # its annotations are narrower than what it takes and gives
        features = model.get_image_features(pictures[list(rows.images)]).pooler_output
        places = (rows.input_ids == IMAGE_ID)[..., None]
        embeds = embeds.masked_scatter(places, torch.cat(list(features)))
    hidden = llava.model.language_model(
        inputs_embeds=embeds,
        position_ids=rows.position_ids,
        attention_mask=None if is_flat else attention_mask(rows.segments, rows.prefixes),
        use_cache=False,
    ).last_hidden_state
    return llava.lm_head(hidden)


def logits_alone(
    llava: LlavaForConditionalGeneration, each: RowExample, pictures: torch.Tensor
) -> torch.Tensor:
    """Return an example's logits [L, V] by Hugging Face's own forward."""
    ids = torch.tensor([each.prompt.token_ids])
    shown = {"pixel_values": pictures[list(each.images)]} if each.images else {}
    return llava(input_ids=ids, attention_mask=torch.ones_like(ids), **shown).logits[0]


@pytest.mark.parametrize("name", ROWS)
@torch.no_grad()
def test_an_example_in_a_row_has_the_logits_it_has_alone(
    llava: LlavaForConditionalGeneration, pictures: torch.Tensor, name: str
):
    rows = make_rows(ROWS[name], PAD_ID)
    found = logits_in_rows(llava, rows, pictures, is_flat=False)
    for number, row in enumerate(ROWS[name]):
        beginnings: dict[tuple[object, ...], slice] = {}
        at = 0
        for each in row:
            shared = each.prefix_tokens
            key = (each.images, *each.prompt.token_ids[:shared])
            if shared and key not in beginnings:
                beginnings[key] = slice(at, at + shared)
                at += shared
            more = len(each.prompt.token_ids) - shared
            parts = [found[number, beginnings[key]]] if shared else []
            parts.append(found[number, at : at + more])
            at += more
            torch.testing.assert_close(
                torch.cat(parts), logits_alone(llava, each, pictures), atol=TOLERANCE, rtol=0
            )


@pytest.mark.parametrize("name", ROWS)
def test_spans_computed_alone_have_the_loss_and_gradients_of_a_mask(
    workshop: Workshop, pictures: torch.Tensor, name: str
):
    model = LlavaForTraining.of(LlavaForConditionalGeneration.from_pretrained(workshop.base))
    rows = make_rows(ROWS[name], PAD_ID)
    shown = {"pixel_values": pictures[list(rows.images)]} if rows.images else {}
    ways: list[dict[str, Any]] = [
        {"segments": rows.segments, "prefixes": rows.prefixes},
        {"spans": spans_of(rows)},
    ]
    losses: list[torch.Tensor] = []
    gradients: list[list[torch.Tensor]] = []
    for way in ways:
        model.zero_grad()
        (loss,) = model(rows.input_ids, rows.position_ids, rows.targets, **way, **shown)
        loss.backward()
        losses.append(loss.detach())
        trained = model.model.language_model.parameters()
        gradients.append([p.grad for p in trained if p.grad is not None])
    torch.testing.assert_close(losses[1], losses[0], atol=TOLERANCE, rtol=TOLERANCE)
    assert gradients[0]
    for with_mask, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(alone, with_mask, atol=1e-4, rtol=1e-4)


def test_spans_are_taken_for_long_examples_and_the_mask_for_short_ones():
    long = [example([1] * 200, 100) for _ in range(3)]
    assert spans_where_quicker(make_rows([long], PAD_ID)) == (
        (0, 0, 200, 0, 0), (0, 200, 400, 0, 0), (0, 400, 600, 0, 0)
    )  # fmt: skip
    assert spans_where_quicker(make_rows([long[:1]], PAD_ID)) is None  # nothing is masked
    short = [example([1] * 20, 10) for _ in range(30)]
    assert spans_where_quicker(make_rows([short], PAD_ID)) is None


def test_a_span_behind_a_shared_beginning_names_it():
    spans = spans_of(make_rows(ROWS["shared beginning"], PAD_ID))
    assert spans[:5] == (
        (0, 0, 5, 0, 0), (0, 5, 12, 0, 5), (0, 12, 19, 0, 5), (0, 19, 26, 0, 5), (0, 26, 34, 0, 0)
    )  # fmt: skip
    assert [span.row for span in spans[5:]] == [1, 1, 1, 1]


@pytest.mark.parametrize("name", ROWS)
@torch.no_grad()
def test_kernels_that_find_examples_by_their_positions_see_the_same(
    llava: LlavaForConditionalGeneration, pictures: torch.Tensor, name: str
):
    alone = [
        [RowExample(each.prompt, 0, each.images) for each in row]  # nothing is shared
        for row in ROWS[name]
    ]
    rows = flattened(make_rows(alone, PAD_ID))
    assert len(rows.input_ids) == 1
    found = logits_in_rows(llava, rows, pictures, is_flat=True)[0]
    expected = [logits_alone(llava, each, pictures) for row in alone for each in row]
    torch.testing.assert_close(found, torch.cat(expected), atol=TOLERANCE, rtol=0)


def test_rows_with_a_shared_beginning_are_not_flattened():
    with pytest.raises(ValueError, match="share the beginning"):
        flattened(make_rows(ROWS["shared beginning"], PAD_ID))


@given(st.lists(st.lists(st.sampled_from((-1, 0, 1, 2)), min_size=1, max_size=9), min_size=1))
@settings(max_examples=60)
def test_the_mask_is_that_of_a_slow_reference(drawn: list[list[int]]):
    """Each number is an example's; 0 is the beginning that 1 shares; -1 pads, anywhere."""
    longest = max(map(len, drawn))
    segments = torch.tensor([row + [PADDING] * (longest - len(row)) for row in drawn])
    prefixes = torch.where(segments == 1, 0, segments)
    mask = attention_mask(segments, prefixes)
    assert mask.shape == (len(drawn), 1, longest, longest)
    for row, query, key in itertools.product(range(len(drawn)), range(longest), range(longest)):
        own, other = int(segments[row, query]), int(segments[row, key])
        sees = key <= query and own != PADDING and (own == other or (own == 1 and other == 0))
        assert bool(mask[row, 0, query, key]) == (sees or query == key)


def test_positions_begin_anew_and_go_on_behind_a_shared_beginning():
    rows = make_rows(ROWS["shared beginning"], PAD_ID)
    assert rows.position_ids[0].tolist() == [
        *range(5), *range(5, 12), *range(5, 12), *range(5, 12), *range(8)
    ]  # fmt: skip


def test_targets_are_the_next_tokens_and_none_crosses_an_example():
    rows = make_rows([[example([1, 5, 6, 2], 2), example([1, 8, 2], 1)]], PAD_ID)
    skipped = IGNORE_INDEX
    assert rows.targets.tolist() == [[skipped, 6, 2, skipped, 8, 2, skipped]]
    assert rows.num_targets == 4
    assert rows.num_tokens == 7


@pytest.mark.parametrize("name", ROWS)
def test_sharing_loses_no_target(name: str):
    rows = make_rows(ROWS[name], PAD_ID)
    trained = [sum(each.prompt.is_trained[1:]) for row in ROWS[name] for each in row]
    assert rows.num_targets == sum(trained)


def test_an_image_shared_by_questions_is_encoded_once():
    assert make_rows(ROWS["shared beginning"], PAD_ID).images == (0, 1, 0)


def test_no_rows_at_all_have_one_token_and_no_loss(llava: LlavaForConditionalGeneration):
    rows = make_rows([], PAD_ID)
    assert rows.input_ids.tolist() == [[PAD_ID]]
    assert rows.num_targets == 0
    model = LlavaForTraining.of(llava)
    (loss,) = model(rows.input_ids, rows.position_ids, rows.targets, rows.segments, rows.prefixes)
    assert loss.item() == 0.0


def test_a_pass_without_images_still_gives_each_trained_part_a_gradient(workshop: Workshop):
    """Cards wait for one another's gradients, so none may be left out."""
    model = LlavaForTraining.of(LlavaForConditionalGeneration.from_pretrained(workshop.base))
    rows = make_rows([], PAD_ID)
    (loss,) = model(rows.input_ids, rows.position_ids, rows.targets, rows.segments, rows.prefixes)
    loss.backward()
    for name, parameter in model.named_parameters():
        if "vision_tower" not in name:
            assert parameter.grad is not None, name
            assert not bool(parameter.grad.any()), name
