"""The queue machine finds nothing in our scripts, and something in each that lacks a protection."""

import hashlib

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import FlakyFailure
from hypothesis.stateful import run_state_machine_as_test

from services.protocol import event_stream, request_queue, worker_directory
from tests.protocol.queue_machine import QueueMachine


def _run_machine(url: str, *, max_examples: int) -> None:
    QueueMachine.url = url
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(
            max_examples=max_examples,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            report_multiple_bugs=False,
            phases=(Phase.generate,),
            print_blob=False,
        ),
    )


def test_queue_keeps_its_promises_in_every_order_of_events(redis_url: str):
    _run_machine(redis_url, max_examples=60)


@pytest.mark.parametrize(
    ("name", "protection", "instead"),
    [
        ("publish", "if not redis.call('ZSCORE', leases, ARGV[1]) then", "if false then"),
        ("publish", "redis.pcall('XDEL', work, entry)", ""),
        ("enqueue", "string.match(held, '^(%d+)|') == attempt", "false"),
        ("reap", "redis.call('EXISTS', prefix .. 'gateway:' .. gateway) == 1", "false"),
        ("claim", "count_down(lane, owner, 1)", ""),
        ("claim", "redis.call('SREM', affine_workers, owner)", ""),
        ("claim", "most = math.min(free, before_batch + batch_free)", ""),
        ("revoke", "redis.call('HINCRBY', affine, lane, -1)", ""),
        ("close_lanes", "return release_lanes(ARGV[1], ARGV[2], ARGV[3], ARGV[4])", ""),
        (
            "close_lanes",
            "redis.call('HSET', inflight, m.request_id, m.attempt",
            "local _ = (m.attempt",
        ),
        ("reap", "release_lanes(prefix, group, worker, ARGV[8])", ""),
    ],
)
def test_control_the_machine_finds_what_a_script_leaves_out(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, name: str, protection: str, instead: str
):
    script = _SCRIPTS[name]
    assert protection in script.text
    text = script.text.replace(protection, instead)
    monkeypatch.setattr(script, "text", text)
    monkeypatch.setattr(script, "sha", hashlib.sha1(text.encode()).hexdigest())
    with pytest.raises((AssertionError, FlakyFailure)):
        _run_machine(redis_url, max_examples=200)


_SCRIPTS = {
    "publish": event_stream._PUBLISH,  # a sabotage
    "enqueue": request_queue._ENQUEUE,
    "claim": request_queue._CLAIM,
    "revoke": request_queue._REVOKE,
    "close_lanes": request_queue._CLOSE_LANES,
    "reap": worker_directory._REAP,
}
