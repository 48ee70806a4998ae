"""What a request costs its tenant: an estimate, and what is settled at its end."""

import pytest

from services.gateway.prompt_costs import image_tokens, prompt_tokens
from services.gateway.token_charges import TokenCharges
from services.protocol.messages import (
    Finished,
    GenerationRequest,
    ImagePart,
    ImageRecipe,
    ImageRef,
    Message,
    ModelCard,
    SamplingParams,
    TextPart,
)

FIXED = ModelCard("m", "e", 4096, 4, frozenset(), frozenset(), image_tokens=576)
KEEP = ModelCard(
    "m", "e", 4096, 4, frozenset(), frozenset(),
    image_recipe=ImageRecipe(336, 336, 336, mode="keep", patch_px=14),
)  # fmt: skip
OPEN = ModelCard("m", "e", 4096, 4, frozenset(), frozenset())


def request(text: str = "", images: int = 0, max_tokens: int | None = None) -> GenerationRequest:
    parts = (TextPart(text), *[ImagePart(ImageRef("0" * 64, 336, 336))] * images)
    return GenerationRequest(
        "r", "g", "tenant", "m", "interactive", (Message("user", parts),),
        SamplingParams(max_tokens=max_tokens),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("card", "size", "expected"),
    [
        (FIXED, (4000, 3000), (576, True)),
        (KEEP, (336, 336), (24 * 24, True)),
        (KEEP, (672, 336), (48 * 24, True)),
        (OPEN, (280, 560), (10 * 20, False)),
        (OPEN, (20_000, 2_000), (1337, False)),
        (OPEN, (28, 20), (1, False)),
    ],
)
def test_tokens_of_an_image(
    card: ModelCard, size: tuple[int, int], expected: tuple[int, bool]
) -> None:
    assert image_tokens(card, size) == expected


def test_prompt_counts_text_and_images() -> None:
    assert prompt_tokens(request("x" * 400), FIXED) == 101
    assert prompt_tokens(request("x" * 400, images=2), FIXED) == 101 + 2 * 576


def test_answer_is_expected_as_long_as_those_before_but_no_longer_than_allowed() -> None:
    charges = TokenCharges({})
    assert charges.estimate(request(), FIXED) == 1 + 256
    for _ in range(400):
        charges.ended(request(), 0, Finished("r", 1, "stop", 1, 40))
    assert charges.estimate(request(), FIXED) == 1 + 40
    assert charges.estimate(request(max_tokens=7), FIXED) == 1 + 7


def test_end_settles_the_difference_once() -> None:
    charges = TokenCharges({})
    charges.ended(request(), 300, Finished("r", 1, "stop", 620, 80))
    charges.ended(request(), 500, Finished("r", 1, "stop", 100, 100))
    assert charges.take_corrections() == {("m", "interactive"): {"tenant": 400 - 300}}
    assert charges.take_corrections() == {}


def test_weight_divides_what_is_charged_and_what_is_settled() -> None:
    charges = TokenCharges({"tenant": 2.0})
    asked = request("x" * 400, max_tokens=100)
    charged = charges.estimate(asked, FIXED)
    charges.ended(asked, charged, Finished("r", 1, "stop", 300, 100))

    assert charged == round(TokenCharges({}).estimate(asked, FIXED) / 2)
    assert charged + charges.take_corrections()["m", "interactive"]["tenant"] == 200
