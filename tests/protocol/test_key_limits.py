"""Limits of keys in a real Redis: taken, refused, given back, forgotten."""

import asyncio

import pytest

from services.protocol import keys
from services.protocol.key_limits import KeyLimits, LimitBook, SpentUnknownError, Visit
from services.protocol.wire import RedisWire
from tests.support.waiting import eventually


def visit(number: int = 0, *, tokens: int = 10, lifetime_ms: int = 60_000) -> Visit:
    return Visit("galen_k", f"r{number}", "2026-11", tokens, lifetime_ms)


@pytest.fixture
def book(redis_wire: RedisWire) -> LimitBook:
    return LimitBook(redis_wire)


async def test_requests_of_a_minute_end_and_come_back_evenly(book: LimitBook) -> None:
    limits = KeyLimits(requests_per_minute=600)
    rooms = [await book.enter(visit(n), limits) for n in range(600)]
    short = await book.enter(visit(), limits)
    while not short.short:  # some came back meanwhile
        short = await book.enter(visit(), limits)

    assert [room.short for room in rooms] == [""] * 600
    assert rooms[0].requests == 599
    assert short.short == "requests_per_minute"
    assert 0 < short.wait_s <= 0.1  # one in a tenth of a second

    async def has_room() -> bool:
        return not (await book.enter(visit(), limits)).short

    await asyncio.sleep(short.wait_s + 0.002)
    assert await has_room()  # the wait that was told was true


async def test_many_at_once_get_no_more_than_there_is(book: LimitBook) -> None:
    limits = KeyLimits(requests_per_minute=20)
    rooms = await asyncio.gather(*(book.enter(visit(n), limits) for n in range(100)))

    assert sum(not room.short for room in rooms) == 20


async def test_tokens_are_expected_and_then_settled(book: LimitBook) -> None:
    limits = KeyLimits(tokens_per_minute=1000)
    first = await book.enter(visit(1, tokens=900), limits)
    refused = await book.enter(visit(2, tokens=900), limits)
    await book.settle(visit(1, tokens=900), limits, took=100)
    after = await book.enter(visit(3, tokens=900), limits)

    assert (first.short, first.tokens) == ("", 100)
    assert refused.short == "tokens_per_minute"
    assert 40 < refused.wait_s <= 48
    assert (after.short, after.tokens) == ("", 0)


async def test_what_took_more_than_expected_is_paid_off_before_the_next(book: LimitBook) -> None:
    limits = KeyLimits(tokens_per_minute=1000)
    await book.enter(visit(1, tokens=10), limits)
    await book.settle(visit(1, tokens=10), limits, took=2000)
    room = await book.enter(visit(2, tokens=10), limits)

    assert room.short == "tokens_per_minute"
    assert 60 < room.wait_s <= 61
    assert room.tokens == 0


async def test_a_request_beyond_a_minutes_tokens_passes_when_all_are_there(book: LimitBook) -> None:
    limits = KeyLimits(tokens_per_minute=100)

    assert not (await book.enter(visit(1, tokens=10**9), limits)).short
    assert (await book.enter(visit(2, tokens=1), limits)).short == "tokens_per_minute"


async def test_requests_at_once_are_counted_until_they_are_over(book: LimitBook) -> None:
    limits = KeyLimits(concurrent_requests=2)
    assert not (await book.enter(visit(1), limits)).short
    assert not (await book.enter(visit(2), limits)).short
    assert (await book.enter(visit(3), limits)).short == "concurrent_requests"
    await book.settle(visit(1), limits, took=0)

    assert not (await book.enter(visit(3), limits)).short


async def test_requests_of_a_dead_gateway_count_no_more_after_their_time(book: LimitBook) -> None:
    limits = KeyLimits(concurrent_requests=1)
    await book.enter(visit(1, lifetime_ms=50), limits)

    async def has_room() -> bool:
        return not (await book.enter(visit(2), limits)).short

    await eventually(has_room, 5.0, "the end of the dead one")


async def test_a_months_tokens_are_asked_for_once_and_then_counted(book: LimitBook) -> None:
    limits = KeyLimits(tokens_per_month=1000)
    with pytest.raises(SpentUnknownError):
        await book.enter(visit(1, tokens=100), limits)
    first = await book.enter(visit(1, tokens=100), limits, spent=850)
    second = await book.enter(visit(2, tokens=100), limits, spent=0)
    third = await book.enter(visit(3, tokens=1), limits)
    await book.settle(visit(1, tokens=100), limits, took=0)
    fourth = await book.enter(visit(4, tokens=1), limits)

    assert [room.short for room in (first, second, third)] == ["", "", "tokens_per_month"]
    assert fourth.short == ""


async def test_what_has_no_room_takes_nothing(book: LimitBook, redis_wire: RedisWire) -> None:
    limits = KeyLimits(10, 1000, 1)
    await book.enter(visit(1), limits)
    before = await redis_wire.execute_command("HGET", keys.limit_buckets("galen_k"), "requests")
    await book.enter(visit(2), limits)
    after = await redis_wire.execute_command("HGET", keys.limit_buckets("galen_k"), "requests")

    assert before == after


async def test_nothing_stays_for_ever(book: LimitBook, redis_wire: RedisWire) -> None:
    await book.enter(visit(1), KeyLimits(10, 1000, 1, 1000), spent=0)
    names = await redis_wire.execute_command("KEYS", "galen:limit*")

    assert len(names) == 3
    for name in names:
        assert await redis_wire.execute_command("PTTL", name) > 0


async def test_what_was_taken_unheard_is_given_back_once(
    book: LimitBook, redis_wire: RedisWire
) -> None:
    limits = KeyLimits(10, 1000, 2, 5000)
    await book.enter(visit(1, tokens=300), limits, spent=0)
    await book.enter(visit(2, tokens=200), limits)

    given = [await book.release(visit(1, tokens=300), limits) for _ in range(2)]
    never = await book.release(visit(3, tokens=300), limits)

    left = await redis_wire.execute_command(
        "HMGET", keys.limit_buckets("galen_k"), "requests", "tokens"
    )
    assert (given, never) == ([True, False], False)
    assert [round(float(each)) for each in left] == [9, 800]
    spent = await redis_wire.execute_command("GET", keys.limit_spent("galen_k", "2026-11"))
    assert int(spent) == 200
    running = await redis_wire.execute_command("ZRANGE", keys.limit_running("galen_k"), 0, -1)
    assert [each.decode() for each in running] == ["r2"]


async def test_who_is_not_known_by_name_gets_nothing_back(book: LimitBook) -> None:
    limits = KeyLimits(requests_per_minute=10)
    await book.enter(visit(1), limits)

    assert not await book.release(visit(1), limits)
    assert (await book.enter(visit(2), limits)).requests == 8
