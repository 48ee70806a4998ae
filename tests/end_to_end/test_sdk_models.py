"""What `/v1/models` says of a model, through the unmodified OpenAI client."""

from typing import Any

import pytest
from openai import NotFoundError, OpenAI

from tests.end_to_end.conftest import FAKE_MODEL, TINY_IMAGE_PX, TINY_MODEL

pytestmark = pytest.mark.e2e


def told_of(client: OpenAI, model: str) -> dict[str, Any]:
    """The fields that the client's own type does not have."""
    described = client.models.retrieve(model)
    assert described.model_extra is not None
    return described.model_extra["galen"]


def test_fake_engine_says_what_it_can_do(fake_client: OpenAI) -> None:
    told = told_of(fake_client, FAKE_MODEL)

    assert (told["engine"], told["context_length"]) == ("fake", 32_768)
    assert told["images"] == {"max_count": 16, "width_px": 336, "height_px": 336, "mode": "crop"}
    assert {"temperature", "logit_bias"} <= set(told["parameters"])
    assert {"response_format", "tools", "prompt"}.isdisjoint(told["parameters"])
    assert told["routes"] == ["/v1/chat/completions", "/v1/completions", "/v1/responses"]
    assert (told["adapters"], told["quantization"]) == ([], None)


def test_real_engine_says_what_it_can_do(tiny_client: OpenAI) -> None:
    told = told_of(tiny_client, TINY_MODEL)

    assert told["engine"] == "transformers"
    assert {"response_format", "tools", "tool_choice", "seed"} <= set(told["parameters"])
    assert told["images"]["width_px"] == TINY_IMAGE_PX


def test_listed_and_described_are_the_same(fake_client: OpenAI) -> None:
    (listed,) = fake_client.models.list().data

    assert listed.model_extra == fake_client.models.retrieve(FAKE_MODEL).model_extra


def test_unknown_model_is_not_found_on_every_route(fake_client: OpenAI) -> None:
    routes: list[Any] = [
        lambda: fake_client.models.retrieve("gpt-0"),
        lambda: fake_client.completions.create(model="gpt-0", prompt="x"),
        lambda: fake_client.responses.create(model="gpt-0", input="x"),
        lambda: fake_client.embeddings.create(model="gpt-0", input="x"),
    ]
    for ask in routes:
        with pytest.raises(NotFoundError) as caught:
            ask()
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
