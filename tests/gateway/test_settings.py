"""Settings that fit no gateway stop its start, in words that help."""

import pytest
import typer

from services.gateway.settings import GatewaySettings
from services.launcher.settings_check import check_settings


def test_a_recipe_that_is_none_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GALEN_GATEWAY_IMAGE_RECIPES", '{"m": "grey", "n": "ct-two-windows"}')

    with pytest.raises(typer.BadParameter) as caught:
        check_settings(GatewaySettings, {})

    assert "GALEN_GATEWAY_IMAGE_RECIPES" in caught.value.message
    assert "n: there is no recipe 'ct-two-windows'; there are default," in caught.value.message


def test_recipes_that_there_are_may_be_named() -> None:
    recipes = {"m": "grey", "n": "ct-three-windows"}

    assert GatewaySettings(image_recipes=recipes).image_recipes == recipes


@pytest.mark.parametrize(("soft", "hard"), [(0.95, None), (0.5, 0.5), (0.6, 0.5)])
def test_the_soft_share_of_memory_is_below_the_hard_one(soft: float, hard: float | None) -> None:
    shares = {"memory_soft_share": soft} | ({} if hard is None else {"memory_hard_share": hard})

    with pytest.raises(ValueError, match=f"above the memory_soft_share of {soft}"):
        GatewaySettings(**shares)  # pyright: ignore[reportArgumentType] - shares only


def test_shares_in_their_order_are_taken() -> None:
    settings = GatewaySettings(memory_soft_share=0.5, memory_hard_share=0.6)

    assert (settings.memory_soft_share, settings.memory_hard_share) == (0.5, 0.6)
