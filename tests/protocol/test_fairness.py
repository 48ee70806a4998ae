"""Tenants of a lane get equal shares of the tokens, whatever they send and wherever it waits."""

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.gateway.token_charges import TokenCharges
from services.protocol import keys
from services.protocol.messages import Finished
from services.protocol.request_queue import Candidate, LanePlace, QueueFull
from tests.protocol.parties import MODEL, Wire, open_parties, request

MOST_TOKENS = 4000
WORKERS = ("w1", "w2")


class Backlog:
    """What tenants have sent, and what they were given."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._costs: dict[str, int] = {}
        self.waiting = Counter[str]()
        self.tokens = Counter[str]()

    async def send(self, tenant: str, cost: int, ranked: tuple[Candidate, ...] = ()) -> None:
        name = f"{tenant}/{len(self._costs)}"
        self._costs[name] = cost
        self.waiting[tenant] += 1
        sent = request(name, tenant=tenant)
        await self._wire.queue.enqueue(sent, cost_tokens=cost, candidates=ranked)

    async def serve(self, worker: str, count: int = 1) -> list[str]:
        """Let a worker take requests and end them at once."""
        taken = await self._wire.claim_ids(worker, count)
        for name in taken:
            tenant = name.partition("/")[0]
            self.tokens[tenant] += self._costs[name]
            self.waiting[tenant] -= 1
            await self._wire.finish(worker, name)
        return taken


@pytest.fixture
async def backlog(wire: Wire) -> Backlog:
    await wire.register(*WORKERS)
    for worker in WORKERS:
        await wire.claim(worker, 8)
    return Backlog(wire)


async def _share(redis_url: str, seed: int, sizes: list[int], *, with_affinity: bool) -> None:
    """Serve a backlog of tenants with requests of these sizes; check the shares at every step."""
    draw = random.Random(seed)
    async for wire in open_parties(redis_url):
        await wire.client.flushdb()
        await wire.directory.gateway_beat("gateway-1")
        await wire.register(*WORKERS)
        for worker in WORKERS:
            await wire.claim(worker, 2)
        backlog = Backlog(wire)
        tenants = {f"t{index}": size for index, size in enumerate(sizes)}
        todo = [tenant for tenant, size in tenants.items() for _ in range(12_000 // size + 4)]
        draw.shuffle(todo)
        for tenant in todo:
            ranked = tuple(Candidate(w, 2) for w in draw.sample(WORKERS, 2))
            cost = max(1, round(tenants[tenant] * draw.uniform(0.5, 1.5)))
            await backlog.send(tenant, cost, ranked if with_affinity else ())
        # SFQ's bound (Goyal, Vin, Cheng 1996, theorem 1): no two differ by more than one request of
        # each; what waits in a worker's own lane is out of the other's reach for some more.
        bound = 1.5 * 2 * max(sizes) * (1 + 4 * with_affinity)
        served = 0
        while all(backlog.waiting[tenant] > 0 for tenant in tenants):
            served += len(await backlog.serve(draw.choice(WORKERS)))
            given_tokens = [backlog.tokens[tenant] for tenant in tenants]
            assert max(given_tokens) - min(given_tokens) <= bound
        while served < len(todo):
            served += len(await backlog.serve("w1", 8)) + len(await backlog.serve("w2", 8))
        assert await wire.leftovers() == {}


@pytest.mark.parametrize("with_affinity", [False, True])
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.sampled_from([40, 300, 1000, MOST_TOKENS]), min_size=2, max_size=5),
)
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
async def test_shares_are_equal_at_every_moment_and_all_is_served(
    redis_url: str, seed: int, sizes: list[int], *, with_affinity: bool
):
    await _share(redis_url, seed, sizes, with_affinity=with_affinity)


async def test_small_requests_pass_a_large_backlog_of_large_ones(backlog: Backlog):
    for _ in range(20):
        await backlog.send("large", MOST_TOKENS)
    await backlog.serve("w1")
    for _ in range(10):
        await backlog.send("small", 100)
    taken = [(await backlog.serve("w1"))[0] for _ in range(12)]
    assert [name.partition("/")[0] for name in taken].count("small") == 10


async def test_tenant_of_weight_two_gets_twice_the_tokens(wire: Wire, backlog: Backlog):
    charges = TokenCharges({"heavy": 2.0})
    given_tokens = Counter[str]()
    for turn in range(300):
        for tenant in ("heavy", "light"):
            asked = request(f"{tenant}/{turn}", tenant=tenant)
            await wire.queue.enqueue(asked, cost_tokens=charges.estimate(asked, None))
    for _ in range(300):
        (name,) = await wire.claim_ids("w1", 1)
        tenant = name.partition("/")[0]
        asked, prompt = request(name, tenant=tenant), 50 + 10 * (len(name) % 3)
        charged = charges.estimate(asked, None)
        await wire.finish("w1", name)
        charges.ended(asked, charged, Finished(name, 1, "stop", prompt, 200))
        given_tokens[tenant] += prompt + 200
        for (model, lane), corrections in charges.take_corrections().items():
            await wire.queue.settle(model, lane, corrections)
    assert given_tokens["heavy"] / given_tokens["light"] == pytest.approx(2, rel=0.03)


async def test_nobody_saves_up_turns_by_staying_away(backlog: Backlog):
    await backlog.send("guest", 10)
    await backlog.serve("w1")
    for _ in range(12):
        await backlog.send("busy", 100)
    for _ in range(6):
        await backlog.serve("w1")
    for _ in range(6):
        await backlog.send("guest", 100)
    before = backlog.tokens["busy"]
    for _ in range(6):
        await backlog.serve("w1")
    assert backlog.tokens["busy"] - before == 300


async def test_tenant_that_leaves_and_comes_back_still_owes(backlog: Backlog):
    """One large request at a time is no way around the shares."""
    for _ in range(40):
        await backlog.send("small", 100)
    await backlog.send("large", 2000)
    while backlog.waiting["small"]:
        taken = await backlog.serve("w1")
        if taken[0].startswith("large"):
            await backlog.send("large", 2000)
    assert backlog.tokens["large"] <= 4000 + 2000


async def test_shares_hold_between_a_workers_own_lane_and_the_shared_one(backlog: Backlog):
    ranked = (Candidate("w1", 8), Candidate("w2", 8))
    for _ in range(8):
        await backlog.send("near", 1000, ranked)
    for _ in range(8):
        await backlog.send("far", 1000)
    for _ in range(4):
        await backlog.serve("w1")
    assert backlog.tokens == {"near": 2000, "far": 2000}


async def test_settling_gives_back_what_was_charged_too_much(wire: Wire, backlog: Backlog):
    for tenant in "ab":
        for _ in range(4):
            await backlog.send(tenant, 1000)
    assert [(await backlog.serve("w1"))[0][0] for _ in range(2)] == ["a", "b"]
    await wire.queue.settle(MODEL, "interactive", {"b": -900, "a": 500})
    assert [(await backlog.serve("w1"))[0][0] for _ in range(3)] == ["b", "b", "a"]


async def test_settling_after_everything_expired_brings_nothing_back(wire: Wire):
    await wire.queue.settle(MODEL, "interactive", {"a": 500})
    assert await wire.client.exists(keys.given(MODEL, "interactive")) == 0


async def test_full_lane_takes_whom_its_backlog_is_not(wire: Wire):
    async def send(name: str, tenant: str) -> QueueFull | None:
        return await wire.queue.enqueue(request(name, tenant=tenant), max_waiting=6)

    for index in range(6):
        assert await send(f"a{index}", "a") is None
    assert await send("a6", "a") == QueueFull(6)
    assert [await send(f"b{index}", "b") for index in range(3)] == [None] * 3
    assert await send("b3", "b") == QueueFull(9)
    assert await wire.queue.check_room(LanePlace(MODEL, "interactive", "b"), 6) == QueueFull(9)
    assert await wire.queue.check_room(LanePlace(MODEL, "interactive", "c"), 6) is None


async def test_room_counts_free_slots_and_what_is_being_made(wire: Wire, backlog: Backlog):
    place, w1 = LanePlace(MODEL, "interactive", "a"), Candidate("w1", 2)

    async def has_room(before: int) -> bool:
        return await wire.queue.check_room(place, 1, before=before, workers=[w1]) is None

    assert [await has_room(before) for before in (0, 2, 3)] == [True, True, False]
    await backlog.send("a", 1)
    assert [await has_room(before) for before in (0, 1, 2)] == [True, True, False]
    await wire.claim("w1", 1)
    assert [await has_room(before) for before in (0, 1, 2)] == [True, True, False]
    await backlog.send("a", 1)
    await wire.claim("w1", 1)
    assert [await has_room(before) for before in (0, 1)] == [True, False]


async def test_claims_are_counted_by_lane(wire: Wire, backlog: Backlog):
    for _ in range(3):
        await backlog.send("a", 5)
    await backlog.serve("w1", 2)
    field = keys.depth_field(MODEL, "interactive").encode()
    assert await wire.client.hgetall(keys.CLAIMED) == {field: b"2"}
