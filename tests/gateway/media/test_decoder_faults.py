import asyncio
import os
import signal

import psutil
import pytest

from services.gateway.media.decode_messages import DecodedImage
from services.gateway.media.decoder import ImageDecoder
from services.protocol.errors import ErrorCode, OverloadedError, RequestError, UnavailableError
from tests.gateway.media.decoding import decode
from tests.gateway.media.image_files import noise, saved


async def _is_busy(decoder: ImageDecoder) -> None:
    while decoder.num_idle:
        await asyncio.sleep(0)


async def test_a_child_that_is_killed_mid_job_fails_this_job_only(decoder: ImageDecoder):
    (pid,) = decoder.child_pids
    os.kill(pid, signal.SIGSTOP)
    job = asyncio.create_task(decode(decoder, saved(noise(300, 300), "PNG")))
    await _is_busy(decoder)

    os.kill(pid, signal.SIGKILL)

    with pytest.raises(RequestError) as caught:
        await job
    assert caught.value.code == ErrorCode.INVALID_IMAGE
    assert (await decode(decoder, saved(noise(30, 30), "PNG"))).width == 30
    assert decoder.child_pids != [pid]


async def test_a_child_that_is_killed_while_the_job_is_written_fails_this_job_only(
    decoder: ImageDecoder,
):
    (pid,) = decoder.child_pids
    os.kill(pid, signal.SIGSTOP)
    job = asyncio.create_task(decoder.decode("A" * 20_000_000, "image/png"))
    await _is_busy(decoder)

    os.kill(pid, signal.SIGKILL)

    with pytest.raises(RequestError):
        await job
    assert (await decode(decoder, saved(noise(30, 30), "PNG"))).width == 30


async def test_a_child_that_died_idle_costs_no_job(decoder: ImageDecoder):
    (pid,) = decoder.child_pids
    os.kill(pid, signal.SIGKILL)
    while decoder.child_pids:
        await asyncio.sleep(0)

    assert (await decode(decoder, saved(noise(30, 30), "PNG"))).width == 30


async def test_a_child_that_hangs_is_replaced_after_the_wall_limit():
    async with ImageDecoder(num_children=1, wall_limit_s=0.3) as decoder:
        (pid,) = decoder.child_pids
        os.kill(pid, signal.SIGSTOP)

        with pytest.raises(RequestError) as caught:
            await decode(decoder, saved(noise(30, 30), "PNG"))

        assert caught.value.code == ErrorCode.INVALID_IMAGE
        assert (await decode(decoder, saved(noise(30, 30), "PNG"))).width == 30


async def test_cancelling_frees_the_child_for_the_next_job(decoder: ImageDecoder):
    (pid,) = decoder.child_pids
    os.kill(pid, signal.SIGSTOP)
    job = asyncio.create_task(decode(decoder, saved(noise(300, 300), "PNG")))
    await _is_busy(decoder)

    job.cancel()

    with pytest.raises(asyncio.CancelledError):
        await job
    image = noise(30, 30)
    assert (await decode(decoder, saved(image, "PNG"))).data == image.tobytes()


async def test_cancelling_a_waiting_job_leaves_the_pool_whole(decoder: ImageDecoder):
    file = saved(noise(300, 300), "PNG")
    running, waiting = (asyncio.create_task(decode(decoder, file)) for _ in range(2))
    while not decoder.num_waiting:
        await asyncio.sleep(0)

    waiting.cancel()

    assert (await running).width == 300
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (decoder.num_idle, decoder.num_waiting) == (1, 0)


async def test_more_waiting_jobs_than_allowed_are_an_overload():
    file = saved(noise(30, 30), "PNG")
    async with ImageDecoder(num_children=1, max_waiting=3) as decoder:
        jobs = [asyncio.create_task(decode(decoder, file)) for _ in range(5)]

        results = await asyncio.gather(*jobs, return_exceptions=True)

    assert [isinstance(result, OverloadedError) for result in results].count(True) == 1
    assert [isinstance(result, DecodedImage) for result in results].count(True) == 4


async def test_closing_ends_jobs_as_a_shutdown_and_leaves_no_child():
    decoder = ImageDecoder(num_children=2)
    await decoder.start()
    pids = decoder.child_pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    jobs = [asyncio.create_task(decode(decoder, saved(noise(30, 30), "PNG"))) for _ in range(3)]
    while not decoder.num_waiting:
        await asyncio.sleep(0)

    await decoder.close()

    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert all(isinstance(result, UnavailableError) for result in results)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(UnavailableError):
        await decode(decoder, saved(noise(30, 30), "PNG"))


async def test_images_are_decoded_concurrently_and_each_gets_its_own_answer():
    images = [noise(50 + place, 50, seed=place) for place in range(12)]
    async with ImageDecoder(num_children=2) as decoder:
        decoded = await asyncio.gather(*(decode(decoder, saved(image, "PNG")) for image in images))

    assert [one.data for one in decoded] == [image.tobytes() for image in images]


async def test_a_child_is_limited_and_knows_nothing_of_its_parent(decoder: ImageDecoder):
    child = psutil.Process(decoder.child_pids[0])

    assert 0 < child.rlimit(psutil.RLIMIT_AS)[0] < 1.5 * 1024**3
    assert child.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    assert child.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
    assert child.rlimit(psutil.RLIMIT_NOFILE)[0] <= 16
    assert set(child.environ()) <= {"PYTHONPATH", "LC_ALL"}
