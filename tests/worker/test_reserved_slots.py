import pytest

from services.worker.reserved_slots import ReservedSlots


@pytest.mark.parametrize(
    ("slots", "fixed", "batch_slots"),
    [(1, None, 1), (2, None, 1), (8, None, 7), (64, None, 60), (8, 0, 8), (8, 7, 1)],
)
def test_a_sixteenth_is_kept_where_nobody_asks(slots: int, fixed: int | None, batch_slots: int):
    assert ReservedSlots(slots, fixed).batch_slots(0, 100.0) == batch_slots


def test_what_interactive_requests_used_is_kept_for_a_while():
    reserved = ReservedSlots(64, None)

    assert reserved.batch_slots(9, 100.0) == 54  # nine, and one more
    assert reserved.batch_slots(0, 129.0) == 54
    assert reserved.batch_slots(3, 131.0) == 54  # the window before counts still
    assert reserved.batch_slots(0, 162.0) == 60  # three and one more are the least anyway
    assert reserved.batch_slots(12, 170.0) == 51
    assert reserved.batch_slots(0, 300.0) == 60  # long ago


def test_batch_keeps_half_of_the_slots_whatever_the_load():
    assert ReservedSlots(64, None).batch_slots(64, 100.0) == 32
    assert ReservedSlots(2, None).batch_slots(2, 100.0) == 1


def test_a_fixed_number_does_not_follow_the_load():
    assert ReservedSlots(64, 4).batch_slots(40, 100.0) == 60
