import os
import subprocess
import sys
import time

from services.protocol.worker_directory import ALL_SUSPECT
from services.worker.progress_page import ProgressPage, ProgressSnapshot, StepLimits


def test_a_new_page_says_starting_and_nothing_else() -> None:
    page = ProgressPage.create()
    seen = page.read()
    assert (seen.beat, seen.steps, seen.running, seen.state) == (0.0, 0, 0, "starting")
    assert seen.worker_id == ""
    assert seen.admitting == ()
    page.close()


def test_the_reader_sees_what_the_writer_says_through_another_mapping() -> None:
    reader = ProgressPage.create()
    writer = ProgressPage(os.dup(reader.fd))
    writer.set_state("ready", "worker-1")
    writer.beat()
    writer.set_running(2)
    writer.step_done()
    writer.admitting(["a", "b"])
    seen = reader.read()
    assert (seen.state, seen.worker_id, seen.running, seen.steps) == ("ready", "worker-1", 2, 1)
    assert seen.beat > 0.0
    assert seen.admitting == ("a", "b")
    writer.close()
    reader.close()


def test_a_finished_step_blames_nobody() -> None:
    page = ProgressPage.create()
    page.admitting(["a"])
    page.step_done()
    assert page.read().admitting == ()
    page.close()


def test_a_busy_time_begins_with_the_first_request() -> None:
    page = ProgressPage.create()
    page.set_running(1)
    began = page.read().last_step
    assert began > 0.0
    page.set_running(2)
    assert page.read().last_step == began
    page.close()


def test_more_ids_than_fit_blame_all() -> None:
    page = ProgressPage.create()
    page.admitting([f"chatcmpl-{i:024d}" for i in range(1000)])
    assert page.read().admitting == (ALL_SUSPECT,)
    page.close()


def test_clear_makes_the_page_new() -> None:
    page = ProgressPage.create()
    page.set_state("ready", "worker-1")
    page.beat()
    page.clear()
    assert page.read().worker_id == ""
    assert page.read().beat == 0.0
    page.close()


def snapshot(running: int, *admitting: str) -> ProgressSnapshot:
    return ProgressSnapshot(100.0, 100.0, 7, running, "ready", "worker-1", admitting)


def test_an_engine_with_work_that_finishes_no_step_is_hung() -> None:
    limits = StepLimits(decode_s=8.0, prefill_s=60.0)
    assert not snapshot(1).is_hung(107.9, limits)
    assert snapshot(1).is_hung(108.1, limits)
    assert not snapshot(1, "a").is_hung(159.0, limits)
    assert snapshot(1, "a").is_hung(161.0, limits)
    assert not snapshot(0).is_hung(1000.0, limits)


def test_the_end_of_an_admission_is_progress() -> None:
    page = ProgressPage.create()
    page.set_running(1)
    page.admitting(["a"])
    began = page.read().last_step
    page.admitting(())
    assert page.read().last_step > began
    assert page.read().admitting == ()
    page.close()


_WRITER = """
import sys
from services.worker.progress_page import ProgressPage
page = ProgressPage(int(sys.argv[1]))
page.set_running(1)
page.beat()
print(flush=True)
while True:
    page.step_done()
    page.beat()
"""


def test_a_time_is_never_read_half_written() -> None:
    page = ProgressPage.create()
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(page.fd)], pass_fds=[page.fd], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        read = [page.read() for _ in range(100_000)]
        writer.kill()
    now = time.monotonic()
    page.close()
    assert all(began <= each.last_step <= now for each in read)
    assert all(began <= each.beat <= now for each in read)
    assert max(each.steps for each in read) > 1000
