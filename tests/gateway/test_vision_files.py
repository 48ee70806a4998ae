"""Files end after their time, content first."""

from pathlib import Path

import pytest

from services.gateway.job_store import JobStore
from services.gateway.vision_files import VISION, remove_expired
from services.store.feedback_records import Evidence, NewVote, Voter, put_vote, remove_vote
from services.store.file_records import NewFile, add_file, find_file
from services.store.job_records import NewJob, add_job, fail_job
from services.store.settings import StoreSettings


async def kept(
    store: JobStore, number: int, purpose: str = VISION, lifetime_s: int | None = None
) -> str:
    key, file_id = f"files/f{number}", f"file-{number}"
    with store.files.writer(key) as out:
        out.write(b"pixels")
    async with store.begin() as session:
        file = NewFile(file_id, "t", "a.png", purpose, 6, "0" * 64, key, lifetime_s=lifetime_s)
        await add_file(session, file)
    return file_id


async def test_images_end_and_what_fails_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALEN_STORE_DIR", str(tmp_path))
    store = JobStore(StoreSettings())
    ids = [await kept(store, 1), await kept(store, 2), await kept(store, 3, "batch")]
    remove = store.files.remove

    def fails(key: str) -> None:
        raise OSError(key)

    assert await remove_expired(store, 3_600_000) == 0  # too young
    monkeypatch.setattr(store.files, "remove", fails)
    with pytest.raises(OSError, match="f1"):
        await remove_expired(store, -1000)
    monkeypatch.setattr(store.files, "remove", remove)
    assert await remove_expired(store, -1000) == 2
    async with store.begin() as session:
        left = [await find_file(session, "t", file_id) for file_id in ids]
    assert [row is not None for row in left] == [False, False, True]
    with pytest.raises(FileNotFoundError):
        store.files.open("files/f1")
    await store.close()


async def test_an_image_of_a_vote_stays_until_the_vote_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALEN_STORE_DIR", str(tmp_path))
    store = JobStore(StoreSettings())
    ids = [await kept(store, number) for number in range(105)]  # more than are looked at at once
    voter, images = Voter("t"), [{"file_id": each, "sha256": "0" * 64} for each in ids[:103]]
    images.append({"sha256": "1" * 64})  # of a file that the operator has
    vote = NewVote("r", "m", "", "up", consent=True, evidence=Evidence(images=images))
    async with store.begin() as session:
        vote_id = (await put_vote(session, voter, vote)).id

    assert await remove_expired(store, -1000) == 2
    with store.files.open("files/f0") as file:
        assert file.read() == b"pixels"
    async with store.begin() as session:
        assert await remove_vote(session, voter, vote_id)
    assert await remove_expired(store, -1000) == 103
    assert await remove_expired(store, -1000) == 0
    await store.close()


async def test_what_has_expired_goes_but_not_what_a_vote_or_a_job_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALEN_STORE_DIR", str(tmp_path))
    store = JobStore(StoreSettings())
    gone, voted = [await kept(store, number, lifetime_s=-3600) for number in (1, 2)]
    read = await kept(store, 3, "batch", lifetime_s=-3600)
    alive, endless = await kept(store, 4, lifetime_s=3600), await kept(store, 5)
    evidence = Evidence(images=[{"file_id": voted, "sha256": "0" * 64}])
    vote = NewVote("r", "m", "", "up", consent=True, evidence=evidence)
    async with store.begin() as session:
        await put_vote(session, Voter("t"), vote)
        new = NewJob("t", "batch", "/v1/chat/completions", "m", read, "24h", 86_400, 1)
        job = await add_job(session, new)

    assert await remove_expired(store, None) == 1
    async with store.begin() as session:
        for file_id in (gone, voted, read, alive, endless):
            row = await find_file(session, "t", file_id, may_be_expired=True)
            assert (row is None) == (file_id == gone), file_id
        await fail_job(session, job.id, [])
    assert await remove_expired(store, None) == 1  # what the job has read
    await store.close()
