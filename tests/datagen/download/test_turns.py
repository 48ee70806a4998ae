"""Waits, mirrors and dead hosts, decided without a network."""

import time

from datagen.download.index import Article
from datagen.download.turns import Job, Patience, Turns

QUICK = Patience(retries=2, backoff_s=0.001, dead_after=2, pause_s=0.001, pauses=1)


def job(*urls: str) -> Job:
    return Job(Article(1, urls[0], ()), list(urls))


def turns_of(*jobs: Job, per_host: int = 4, patience: Patience = QUICK) -> tuple[Turns, list[str]]:
    told: list[str] = []
    turns = Turns(per_host, patience, told.append)
    turns.put(list(jobs))
    return turns, told


def take(turns: Turns) -> Job:
    taken = turns.take()
    assert taken is not None
    return taken


def test_what_may_pass_comes_again_as_often_as_is_said():
    turns, _ = turns_of(job("http://a/1"))

    comes_again = [turns.settle(take(turns), "http-500") for _ in range(3)]

    assert comes_again == [True, True, False]
    assert not turns.is_idle()  # its results are not handed on yet
    turns.finished()
    assert turns.is_idle()


def test_what_is_refused_for_good_is_asked_of_the_mirrors_only():
    turns, _ = turns_of(job("http://a/1", "http://b/1"))
    first = take(turns)
    assert turns.settle(first, "http-404")
    second = take(turns)

    assert second.url == "http://b/1"
    assert not turns.settle(second, "http-404")


def test_a_full_host_does_not_keep_others_waiting():
    turns, _ = turns_of(job("http://a/1"), job("http://a/2"), job("http://b/1"), per_host=1)

    assert [take(turns).url, take(turns).url] == ["http://a/1", "http://b/1"]


def test_a_host_that_asks_for_time_gets_it_from_all():
    turns, _ = turns_of(job("http://a/1"), job("http://a/2"))
    turns.settle(take(turns), "http-429", 0.2)
    began_s = time.monotonic()

    take(turns)

    assert time.monotonic() - began_s >= 0.15


def test_a_host_that_is_away_pauses_dies_and_is_told_of_once():
    turns, told = turns_of(*(job(f"http://a/{n}") for n in range(4)))
    settled = 0
    while not turns.is_idle():
        taken = take(turns)
        reason = "host-dead" if turns.is_dead(taken) else "no-connection"
        if not turns.settle(taken, reason):
            turns.finished()
        settled += 1

    assert len(told) == 1
    assert "--rewrite http://a/=NEW_URL" in told[0]
    assert turns.is_dead(job("http://a/9"))
    assert settled < 20


def test_articles_do_not_wait_for_a_host_that_is_left_alone_while_a_mirror_has_them():
    patience = Patience(retries=0, backoff_s=0.001, dead_after=1, pause_s=3600)
    turns, _ = turns_of(job("http://a/1"), job("http://a/2", "http://b/2"), patience=patience)
    turns.settle(take(turns), "no-connection")

    assert take(turns).url == "http://b/2"


def test_a_closed_one_gives_nothing():
    turns, _ = turns_of(job("http://a/1"))
    turns.close()

    assert turns.take() is None
