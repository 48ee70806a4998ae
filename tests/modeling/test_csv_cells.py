import pytest

from modeling.csv_cells import inert


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\n=1", "  =1"])
def test_a_text_that_a_spreadsheet_would_compute_gets_an_apostrophe(text: str) -> None:
    assert inert(text) == f"'{text}"


@pytest.mark.parametrize("value", ["a=1", "", -3, 0.5, None])
def test_what_is_no_formula_stays_as_it_is(value: object) -> None:
    assert inert(value) is value
