import os

from services.worker.progress_page import ProgressPage


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


def test_more_ids_than_fit_blame_nobody_by_name() -> None:
    page = ProgressPage.create()
    page.admitting([f"chatcmpl-{i:024d}" for i in range(1000)])
    assert page.read().admitting == ()
    page.close()


def test_clear_makes_the_page_new() -> None:
    page = ProgressPage.create()
    page.set_state("ready", "worker-1")
    page.beat()
    page.clear()
    assert page.read().worker_id == ""
    assert page.read().beat == 0.0
    page.close()
