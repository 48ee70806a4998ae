"""The bad-input catalogue is whole, and what it says of answers and tests is so."""

import pytest

from services.gateway.error_handlers import status_and_type
from services.protocol.errors import ErrorCode
from tests.contracts import bad_input_catalogue as catalogue
from tests.contracts.bad_file_catalogue import FILES
from tests.contracts.catalogue_item import TAKEN, Answer, Item
from tests.contracts.named_tests import is_there, text_of
from tests.end_to_end.bad_requests import DICOM_ROWS, IMAGE_ROWS, JSON_ROWS, PARAMETER_ROWS

NUMBERS = {
    "HTTP": [*range(1, 13), *range(14, 18)],
    "JSON": [18, 20, 21, 22, 23, 25, 26, 28, 29, 30, 32, 33],
    "PARAMETERS": [
        *range(34, 46), *range(47, 53), *range(54, 59), *range(60, 66),
    ],
    "IMAGES": [66, 67, *range(69, 73), *range(74, 79), 80, 81, *range(83, 88)],
    "DICOM": [88, 89, *range(91, 96), 97],
    "URLS": [*range(98, 110)],
    "AUTH": [*range(110, 116), 117, 118],
}  # fmt: skip
"""The reliability programme's, section 6; its gaps are its own."""
STATES = {
    "queue full", "draining", "backend down", "deadline", "worker lost", "poisoned", "stream",
}  # fmt: skip
ITEMS: list[Item] = [
    *(item for part in NUMBERS for item in getattr(catalogue, part)),
    *catalogue.STATES,
    *FILES,
]
BODIES = [*JSON_ROWS, *PARAMETER_ROWS, *IMAGE_ROWS, *DICOM_ROWS]


@pytest.mark.parametrize("part", NUMBERS)
def test_every_number_has_its_row(part: str) -> None:
    assert [item.number for item in getattr(catalogue, part)] == list(map(str, NUMBERS[part]))


def test_every_file_and_every_state_of_the_server_has_its_row() -> None:
    assert [item.number for item in FILES] == [f"D{number}" for number in range(1, 25)]
    assert {item.number for item in catalogue.STATES} == STATES


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.number)
def test_every_test_that_is_named_is_there(item: Item) -> None:
    assert item.tests
    assert [test for test in item.tests if not is_there(test)] == []


def test_a_test_that_is_not_there_is_noticed() -> None:
    file = "contracts/test_bad_input_catalogue.py"
    assert is_there(f"{file}::test_a_test_that_is_not_there_is_noticed")
    assert not is_there(f"{file}::test_of_another_name")
    assert not is_there("contracts/test_of_another_name.py::test_a")
    assert not is_there(f"{file}::ITEMS")


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.number)
def test_every_answer_is_that_of_the_code(item: Item) -> None:
    """Status and type follow from the code, in one table: whoever asserts the code asserts them."""
    for answer in item.answers:
        if answer != TAKEN:
            assert (answer.status, answer.kind) == status_and_type(ErrorCode(answer.code))


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.number)
def test_every_answer_stands_in_a_test(item: Item) -> None:
    rows = [row for row in BODIES if str(row.row) == item.number]
    sent = {row.code for row in rows} if catalogue.BODIES in item.tests else set[str]()
    text = "\n".join(text_of(test) for test in item.tests if test != catalogue.BODIES)

    assert [answer for answer in item.answers if not _is_told(answer, sent, text)] == []
    assert [words for words in item.words if words not in text] == []
    assert sent <= {answer.code for answer in item.answers}


def _is_told(answer: Answer, sent: set[str], text: str) -> bool:
    if answer == TAKEN:
        return "assert " in text  # of what becomes of it, in many ways
    return (
        answer.code in sent
        or f'"{answer.code}"' in text
        or f"ErrorCode.{ErrorCode(answer.code).name}" in text
    )


def test_rows_of_bodies_that_are_sent_are_claimed() -> None:
    claimed = {item.number for item in ITEMS if catalogue.BODIES in item.tests}
    extra = {"24"}  # 600,000 values: ours, not the catalogue's
    assert {str(row.row) for row in BODIES} - claimed == extra


def test_what_is_answered_otherwise_has_a_reason() -> None:
    assert all(len(item.deviation) == 0 or len(item.deviation) > 20 for item in ITEMS)
