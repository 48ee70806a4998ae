import asyncio

from services.store.database import Database
from services.store.feedback_records import (
    Evidence,
    NewVote,
    Voter,
    count_votes,
    every_vote,
    list_votes,
    put_vote,
    remove_vote,
)
from services.store.file_records import Page

OWN, OTHER_KEY, OTHER_TENANT = Voter("a", "k1"), Voter("a", "k2"), Voter("b", "k1")


async def put(
    database: Database, voter: Voter, request_id: str = "r", rating: str = "up", **given: str
) -> str:
    async with database.begin() as session:
        consent = bool(given)
        vote = NewVote(request_id, "m", "rev", rating, consent, Evidence(**given))  # pyright: ignore[reportArgumentType] - texts only
        return (await put_vote(session, voter, vote)).id


async def test_votes_of_one_voter_at_once_on_one_request_are_one(database: Database) -> None:
    ids = await asyncio.gather(*(put(database, OWN) for _ in range(8)))

    assert len(set(ids)) == 1
    async with database.begin() as session:
        assert await count_votes(session) == 1


async def test_a_later_vote_takes_the_place_of_the_first_with_all_that_it_brought(
    database: Database,
) -> None:
    await put(database, OWN, reason="good")
    await put(database, OWN, rating="down")

    async with database.begin() as session:
        (row,) = await list_votes(session, OWN, Page(9)) or []
    assert (row.rating, row.consent, row.reason) == ("down", False, None)


async def test_a_voter_sees_and_removes_own_votes_only(database: Database) -> None:
    ids = [await put(database, voter) for voter in (OWN, OTHER_KEY, OTHER_TENANT)]

    async with database.begin() as session:
        assert [row.id for row in await list_votes(session, OWN, Page(9)) or []] == [ids[0]]
        assert await list_votes(session, OWN, Page(9, after=ids[1])) is None
        assert [await remove_vote(session, OWN, each) for each in ids] == [True, False, False]
        assert await count_votes(session) == 2


async def test_every_vote_comes_once_however_many_there_are(database: Database) -> None:
    async with database.begin() as session:
        for number in range(450):
            vote = NewVote(f"r{number}", "m", "", "up", consent=False, evidence=Evidence())
            await put_vote(session, OWN, vote)

    async with database.begin() as session:
        found = [row.request_id async for row in every_vote(session)]
    assert sorted(found) == sorted(f"r{number}" for number in range(450))
