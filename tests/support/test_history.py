"""The checker finds what is wrong in bad histories (its own negative controls)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.history import Event, Record, check, kinds, recovery


def _record(*events: tuple[str, str], expected: int = 3, stream: bool = True) -> Record:
    record = Record("r", stream, expected, invoked=0.0)
    for at, (kind, value) in enumerate(events, start=1):
        record.add(float(at), kind, value, "c1" if kind in {"text", "finish"} else "")
    return record


def _texts(*numbers: int) -> list[tuple[str, str]]:
    return [("text", f"zq{number:04d} ") for number in numbers]


_GOOD_END = [("finish", "stop"), ("done", "")]


def test_good_stream_has_no_violation():
    assert not check([_record(*_texts(0, 1, 2), *_GOOD_END)])


def test_good_whole_answer_has_no_violation():
    assert not check([_record(("answer", "zq0000 zq0001 zq0002 "), stream=False)])


def test_error_after_some_tokens_has_no_violation():
    assert not check([_record(*_texts(0, 1), ("error", "worker_lost"), ("done", ""))])


def test_client_that_left_is_owed_nothing():
    record = _record(*_texts(0, 1))
    record.left = 5.0
    assert not check([record])


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([], "lost"),
        (_texts(0, 1, 2), "lost"),
        ([*_texts(0, 1), ("eof", "")], "lost"),
        ([*_texts(0, 1, 2), ("done", "")], "lost"),
        ([*_texts(0, 1, 2), ("done", "")], "no_done"),
        ([*_texts(0, 1, 2), ("finish", "stop")], "no_done"),
        ([*_texts(0, 1, 2), ("error", "timeout")], "no_done"),
        ([*_texts(0, 1, 2), *_GOOD_END, ("done", "")], "no_done"),
        ([*_texts(0, 1, 2), ("finish", "stop"), *_GOOD_END], "two_terminals"),
        (
            [*_texts(0, 1, 2), ("finish", "stop"), ("error", "timeout"), ("done", "")],
            "two_terminals",
        ),
        ([*_texts(0, 1, 2), *_GOOD_END, *_texts(3)], "after_end"),
        ([*_texts(0, 2), *_GOOD_END], "gap"),
        ([*_texts(1, 2, 3), *_GOOD_END], "gap"),
        ([*_texts(0, 1, 1), *_GOOD_END], "repeat"),
        ([*_texts(0, 1, 0, 1, 2), *_GOOD_END], "repeat"),
        ([*_texts(0, 2, 1), *_GOOD_END], "reorder"),
        ([*_texts(0, 1), *_GOOD_END], "short"),
        ([*_texts(0, 1, 2, 3), *_GOOD_END], "long"),
        ([*_texts(0, 1), ("text", "something"), *_GOOD_END], "mixed"),
    ],
)
def test_bad_history_is_named(events: list[tuple[str, str]], kind: str):
    assert kind in kinds(check([_record(*events)]))


def test_chunks_of_two_answers_in_one_stream_are_named():
    record = _record(*_texts(0, 1, 2), *_GOOD_END)
    record.events[1] = Event(2.0, "text", "zq0001 ", "c2")
    assert kinds(check([record])) == {"mixed"}


def test_token_cut_across_two_chunks_is_one_token():
    assert not check([_record(("text", "zq00"), ("text", "00 "), *_GOOD_END, expected=1)])


@given(st.lists(st.integers(0, 30), max_size=31))
def test_only_the_exact_answer_passes(numbers: list[int]):
    violations = check([_record(*_texts(*numbers), *_GOOD_END, expected=len(numbers))])
    assert bool(violations) == (numbers != list(range(len(numbers))))


def test_recovery_counts_what_was_open_at_the_fault():
    over = _record(*_texts(0, 1, 2), *_GOOD_END)  # its end came at 4.0
    went_on = _record(*_texts(0), ("finish", "stop"), ("done", ""))
    went_on.events[0].at, went_on.events[1].at = 7.5, 9.0
    failed = _record(("error", "worker_lost"), ("done", ""))
    failed.events[0].at = 8.0
    later = _record(*_texts(0), *_GOOD_END)
    later.invoked = 6.0
    found = recovery([over, went_on, failed, later], fault_at=5.0)
    assert found.num_open == 2
    assert found.next_token_s == 3.0
    assert found.terminal_s == 4.0
    assert found.num_errors == 1
