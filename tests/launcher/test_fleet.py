"""What a launcher says of its models stays true when workers leave; real workers, no Redis."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.launcher.children import Child, Family
from services.launcher.fleet import Fleet
from services.launcher.layouts import Layout, Machine
from services.launcher.terminal import CommandError, Terminal
from services.protocol.admin import LoadModel
from tests.support.waiting import eventually

LIMIT_S = 30.0


@pytest.fixture
async def family() -> AsyncIterator[Family]:
    family = Family(Terminal(["worker 1", "worker 2"]))
    yield family
    await family.end(asyncio.Event())


def fleet_of(family: Family, tmp_path: Path, **defaults: str | int | None) -> Fleet:
    shared = {"redis_url": f"unix://{tmp_path}/none.sock", "log_format": "json"}
    return Fleet(family, Terminal(), Machine(), shared, defaults)


async def _registering(child: Child) -> None:
    await eventually(
        lambda: any("registration.delayed" in line for line in child.last_lines), LIMIT_S
    )


@pytest.mark.parametrize("is_seen", [True, False], ids=["seen", "drained_before_it_was_seen"])
async def test_a_drained_worker_is_told_and_its_card_is_free(
    family: Family, tmp_path: Path, *, is_seen: bool
) -> None:
    fleet = fleet_of(family, tmp_path)
    wish = LoadModel("m", "", engine="fake", workers=2)
    layout = Layout("fake", ((0,), (1,)), {"engine": "fake"}, "fake engine, workers: 2")
    await fleet.start(wish, layout, is_first=False)
    if is_seen:
        fleet.establish_all()
    [model] = fleet.models()
    assert (model.workers, model.cards, model.layout) == (2, (0, 1), "fake engine, workers: 2")

    first = fleet._models["m"].workers["worker 1"].child
    await _registering(first)
    first.signal(signal.SIGTERM)
    await eventually(lambda: fleet.models()[0].workers == 1, LIMIT_S)
    [model] = fleet.models()
    assert model.cards == (1,)
    assert fleet._taken_cards() == {1}
    assert model.layout == "fake engine, workers: 2; 1 of 2 workers drained"
    assert model.state == ("serving" if is_seen else "starting")


async def test_a_first_worker_that_is_told_to_end_before_it_is_ready_ends_everything(
    family: Family, tmp_path: Path
) -> None:
    fleet = fleet_of(family, tmp_path)
    layout = Layout("fake", ((),), {"engine": "fake"}, "fake engine, workers: 1")
    await fleet.start(LoadModel("m", "", engine="fake"), layout, is_first=True)
    worker = fleet._models["m"].workers["worker 1"].child
    await _registering(worker)
    worker.signal(signal.SIGTERM)
    death = await asyncio.wait_for(family.first_death(), LIMIT_S)

    assert death.message == ("worker 1 was told to end before it was ready; everything was ended")


async def test_what_up_was_told_holds_for_models_loaded_later_unless_they_say_otherwise(
    family: Family, tmp_path: Path
) -> None:
    fleet = fleet_of(family, tmp_path, slots=3, dtype="float32", quantization=None)
    layout = fleet.plan(LoadModel("m", "", engine="fake", dtype="bfloat16"))

    assert layout.reason == "fake engine, workers: 1; set: --slots 3, --dtype bfloat16"
    assert layout.settings["slots"] == "3"
    assert layout.settings["dtype"] == "bfloat16"
    assert "quantization" not in layout.settings
    with pytest.raises(CommandError, match="is no directory"):
        fleet.plan(LoadModel("m", "/nowhere"))
