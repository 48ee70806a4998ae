"""Which cards CUDA_VISIBLE_DEVICES names; the driver is a stand-in, no card is needed."""

from types import SimpleNamespace

import pynvml
import pytest

from modeling.cards import CardsError, cards_present, visible_indices

UUIDS = ("GPU-aaaa1111-0000", "GPU-aaaa2222-0000", "GPU-bbbb3333-0000")


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("0", [0]),
        ("2,0", [2, 0]),
        (" 2 , 0 ", [2, 0]),
        ("GPU-bbbb", [2]),
        ("GPU-aaaa2222-0000,GPU-aaaa1", [1, 0]),
        ("0,-1,1", [0]),
        ("-1", []),
        ("0,9,1", [0]),
        ("1,,2", [1]),
        ("GPU-bbbb,GPU-cccc,GPU-aaaa1", [2]),
        ("GPU-bbbb,", [2]),
        ("GPU-aaaa", []),  # fits two
        ("0,0", []),
        ("1,0,1", []),
        ("GPU-bbbb,GPU-bbbb3333", []),
        ("0,GPU-bbbb", [0]),  # one kind in a list, as torch reads it
        ("GPU-bbbb,0", [2]),
        ("MIG-0a1b", []),
        ("NoDevFiles", []),
        ("bbbb3333", []),
    ],
)
def test_cards_are_named_by_numbers_or_beginnings_of_uuids(
    visible: str | None, indices: list[int]
) -> None:
    assert visible_indices(visible, UUIDS) == indices


def test_no_card_is_named_where_there_is_none() -> None:
    assert visible_indices(None, ()) == visible_indices("0", ()) == []


@pytest.fixture
def three_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(UUIDS),
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda handle: UUIDS[handle],
        "nvmlDeviceGetName": lambda handle: f"card {handle}",
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(total=2, free=1),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(pynvml, name, stand_in)


@pytest.mark.usefixtures("three_cards")
def test_cards_are_found_by_their_uuids_in_the_order_of_the_list() -> None:
    assert [card.index for card in cards_present("GPU-bbbb,GPU-aaaa1111")] == [2, 0]
    assert [card.name for card in cards_present()] == ["card 0", "card 1", "card 2"]


@pytest.mark.usefixtures("three_cards")
@pytest.mark.parametrize("visible", ["MIG-0a1b", "GPU-cccc", "7", "0,0", "gpu0"])
def test_cards_that_cannot_be_named_are_not_taken_for_none(visible: str) -> None:
    with pytest.raises(CardsError) as refused:
        cards_present(visible)
    message = str(refused.value)
    assert message.startswith(f"CUDA_VISIBLE_DEVICES={visible!r} names none of this machine's 3 ")
    assert "from 0 to 2" in message
    assert "\n" not in message


@pytest.mark.usefixtures("three_cards")
@pytest.mark.parametrize("visible", ["", " ", "-1", "NoDevFiles"])
def test_cards_may_be_hidden_on_purpose(visible: str) -> None:
    assert cards_present(visible) == []


def test_whatever_is_named_there_is_no_card_without_a_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    assert cards_present("GPU-cccc") == []
