from collections.abc import Sequence

import msgspec
import pytest
import structlog

from services.gateway.catalogue import ModelCatalogue
from services.protocol.errors import ErrorCode, NotFoundError, UnavailableError
from services.protocol.messages import AdapterCard, ModelCard, WorkerRecord, WorkerState

CHEST = AdapterCard("chest", "llava:chest", is_base_verified=True, created=7)
CT = AdapterCard("ct", "ct-reader", is_base_verified=False)


def worker(
    name: str, *adapters: AdapterCard, model: str = "llava", state: WorkerState = "ready"
) -> WorkerRecord:
    card = ModelCard(model, "fake", 100, 0, frozenset(), frozenset({"greedy"}), adapters=adapters)
    return WorkerRecord(name, card, state, 4, 0, 0)


def ids(catalogue: ModelCatalogue) -> list[str]:
    return [entry.id for entry in catalogue.list()]


def showing(*workers: WorkerRecord) -> ModelCatalogue:
    catalogue = ModelCatalogue()
    catalogue.update(workers, workers)
    return catalogue


def test_adapter_stands_for_its_base_and_its_folder() -> None:
    catalogue = showing(worker("w1", CHEST, CT))

    assert ids(catalogue) == ["ct-reader", "llava", "llava:chest"]
    found = catalogue.find("ct-reader")
    assert (found.card.id, found.adapter) == ("llava", CT)
    assert catalogue.find("llava").adapter is None


def test_adapter_is_listed_when_every_ready_worker_has_it() -> None:
    late = worker("w2", CT)

    assert ids(showing(worker("w1", CHEST, CT), late)) == ["ct-reader", "llava"]
    assert ids(showing(worker("w1", CHEST, CT), worker("w2", state="draining"))) == [
        "ct-reader",
        "llava",
        "llava:chest",
    ]


@pytest.mark.parametrize("gone", [(), (worker("w2", state="starting"),)])
def test_adapter_outlives_the_respawn_of_its_last_worker(gone: Sequence[WorkerRecord]) -> None:
    catalogue = ModelCatalogue()
    catalogue.update([worker("w1", CHEST)], [worker("w1")])
    catalogue.update([], [worker("w1")])

    assert ids(catalogue) == ["llava", "llava:chest"]


def test_new_gateway_knows_the_adapters_of_workers_that_are_gone() -> None:
    catalogue = ModelCatalogue()
    catalogue.update([], [worker("w1", CHEST)])

    with pytest.raises(NotFoundError):
        catalogue.find("llava:other")
    assert catalogue.resumes("llava") == {"greedy"}


def test_model_whose_workers_are_gone_for_long_is_known_and_not_served() -> None:
    catalogue = ModelCatalogue()
    catalogue.update([], [worker("w1")])

    with pytest.raises(UnavailableError):
        catalogue.find("llava")
    assert catalogue.known("llava").card.id == "llava"
    with pytest.raises(NotFoundError):
        catalogue.known("none")


def test_adapter_that_is_unloaded_is_not_found() -> None:
    catalogue = showing(worker("w1", CHEST))
    catalogue.update([worker("w1")], [worker("w1")])

    with pytest.raises(NotFoundError) as caught:
        catalogue.find("llava:chest")
    assert (caught.value.code, caught.value.param) == (ErrorCode.MODEL_NOT_FOUND, "model")


def test_name_that_is_taken_stays_with_its_owner_and_is_logged_once() -> None:
    thief = msgspec.structs.replace(CHEST, name="thief", served_id="zoo")
    second = msgspec.structs.replace(CT, name="second")
    workers = [
        worker("w1", CT, thief),
        worker("w2", model="zoo"),
        worker("w3", second, model="yak"),
    ]
    catalogue = ModelCatalogue()
    with structlog.testing.capture_logs() as logs:
        catalogue.update(workers, workers)
        catalogue.update(workers, workers)

    assert catalogue.find("zoo").card.id == "zoo"
    assert catalogue.find("ct-reader").adapter == CT
    taken = [(log["event"], log["name"], log["base"], log["owner"]) for log in logs]
    assert taken == [
        ("adapter.name.taken", "zoo", "llava", "zoo"),
        ("adapter.name.taken", "ct-reader", "yak", "llava"),
    ]


def test_adapters_of_an_unloaded_model_go_with_it() -> None:
    catalogue = ModelCatalogue()
    catalogue.update([worker("w1", CHEST)], [], unloaded={"llava"})

    assert ids(catalogue) == []


# ---------------------------------------------------------------- a Redis that came back empty


def test_a_model_that_nobody_tells_of_any_more_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    catalogue = showing(worker("w1", CHEST))
    for _ in range(2):
        catalogue.update([], [])
        assert ids(catalogue) == ["llava", "llava:chest"]
    assert catalogue.find("llava").workers == ()
    assert catalogue.resumes("llava") == {"greedy"}

    monkeypatch.setattr("services.gateway.catalogue.GONE_AFTER_S", 0.0)
    catalogue.update([], [])
    with pytest.raises(NotFoundError):
        catalogue.find("llava")


def test_a_model_that_was_unloaded_is_not_waited_for() -> None:
    catalogue = showing(worker("w1"))

    catalogue.update([], [], {"llava"})

    with pytest.raises(NotFoundError):
        catalogue.find("llava")
