"""The queue under every order of events that hypothesis finds, against a model of what must hold.

Many requests, several workers and one gateway that plays its part as `services/gateway/dispatch.py`
does: it counts tokens, drops what is of another attempt, and answers a loss with the next attempt.
Invariants: no request is lost, each gets exactly one end, tokens never repeat or skip, and nothing
is left in Redis when all is over.
"""

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from services.protocol import keys
from services.protocol.event_stream import End
from services.protocol.messages import GenerationRequest, Lost, decode_events, decode_request
from services.protocol.request_queue import Candidate, Claim, FencedError
from tests.protocol.parties import GATEWAY, MODEL, Wire, finished, request, tokens
from tests.protocol.queue_model import LENGTH, Job, Ticket

_SLOTS = 3
_LANES = ("interactive", "batch")


class QueueMachine(RuleBasedStateMachine):
    """See the module's text."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.new_event_loop()
        self._wire = Wire(self.url)
        self._tickets: dict[str, Ticket] = {}
        self._jobs: dict[str, dict[str, Job]] = {}
        self._alive: set[str] = set()
        self._read_up_to = "-"
        self._num_workers = 0
        self._num_fenced = 0

    def _run(self, awaitable):
        return self._loop.run_until_complete(awaitable)

    @initialize()
    def begin(self) -> None:
        self._run(self._wire.client.flushdb())
        self._run(self._wire.directory.gateway_beat(GATEWAY))
        for _ in range(2):
            self._claim(self._new_worker(), 1)  # before that nothing goes into its own lanes
        known = [Candidate(worker, _SLOTS) for worker in sorted(self._jobs)]
        for tenant, lane, ranked in zip(
            "aaab", [*_LANES, *_LANES], [known] * 3 + [()], strict=True
        ):
            self._enqueue(tenant, lane, ranked)

    def teardown(self) -> None:
        try:
            self._finish_everything()
        finally:
            self._run(self._wire.close())
            self._loop.close()

    # --- the gateway ---

    @rule(tenant=st.sampled_from("abc"), lane=st.sampled_from(["interactive", "batch"]))
    def enqueue(self, tenant, lane) -> None:
        self._enqueue(tenant, lane, ())

    @precondition(lambda self: len(self._alive) > 1)
    @rule(data=st.data(), tenant=st.sampled_from("aab"), lane=st.sampled_from(_LANES))
    def enqueue_by_affinity(self, data, tenant, lane) -> None:
        """To workers that the gateway knows: one may be gone, one may be cordoned."""
        known = sorted(self._jobs)[-4:]
        ranked = data.draw(st.permutations(known))
        self._enqueue(tenant, lane, [Candidate(worker, _SLOTS) for worker in ranked])

    def _enqueue(self, tenant, lane, candidates) -> None:
        request_id = f"r{len(self._tickets)}"
        sent = request(request_id, tenant=tenant, lane=lane)
        self._tickets[request_id] = Ticket(sent)
        self._run(self._wire.queue.enqueue(sent, candidates=candidates))

    @precondition(lambda self: any(t.is_open for t in self._tickets.values()))
    @rule(data=st.data())
    def enqueue_again_after_a_lost_reply(self, data) -> None:
        ticket = self._draw_open(data)
        held = self._run(
            self._wire.client.hexists(keys.inflight(GATEWAY), ticket.request.request_id)
        )
        if held:  # the gateway repeats before it reads on
            self._run(self._wire.queue.enqueue(ticket.request))

    @precondition(lambda self: any(t.is_open for t in self._tickets.values()))
    @rule(data=st.data())
    def cancel(self, data) -> None:
        ticket = self._draw_open(data)
        ticket.cancelled = True
        self._run(self._wire.queue.revoke(GATEWAY, ticket.request.request_id))

    @precondition(lambda self: any(t.is_open for t in self._tickets.values()))
    @rule(data=st.data())
    def take_back_and_send_again(self, data) -> None:
        """What the gateway does when events are missing."""
        self.read_events()
        if not any(ticket.is_open for ticket in self._tickets.values()):
            return
        ticket = self._draw_open(data)
        self._run(self._wire.queue.revoke(GATEWAY, ticket.request.request_id))
        self._next_attempt(ticket, strike=False, alone=False)

    def _draw_open(self, data) -> Ticket:
        names = [name for name, ticket in self._tickets.items() if ticket.is_open]
        return self._tickets[data.draw(st.sampled_from(names))]

    @rule()
    def read_events(self) -> None:
        entries = self._run(self._wire.client.xrange(keys.events(GATEWAY), min=self._read_up_to))
        for entry_id, fields in entries:
            self._read_up_to = f"({entry_id.decode()}"
            for event in decode_events(fields[b"b"]).events:
                ticket = self._tickets[event.request_id]
                if event.attempt == ticket.request.attempt and not ticket.cancelled:
                    ticket.take(event)
                    if isinstance(event, Lost) and not event.final:
                        self._next_attempt(ticket, strike=event.strike, alone=event.suspect)

    def _next_attempt(self, ticket: Ticket, *, strike: bool, alone: bool) -> None:
        ticket.begin_next_attempt(strike=strike, alone=alone)
        self._run(self._wire.queue.enqueue(ticket.request))

    # --- workers ---

    @precondition(lambda self: len(self._alive) < 3)
    @rule()
    def start_worker(self) -> None:
        self._claim(self._new_worker(), 1)

    def _new_worker(self) -> str:
        self._num_workers += 1
        worker = f"w{self._num_workers}"
        self._run(self._wire.register(worker))
        self._jobs[worker] = {}
        self._alive.add(worker)
        return worker

    @precondition(lambda self: self._alive)
    @rule(
        data=st.data(),
        free=st.integers(1, _SLOTS),
        batch=st.integers(0, _SLOTS),
        reply_is_lost=st.booleans(),
    )
    def claim(self, data, free, batch, reply_is_lost) -> None:
        self._claim(self._draw_alive(data), free, batch, reply_is_lost=reply_is_lost)

    @precondition(lambda self: self._alive)
    @rule(data=st.data())
    def cordon(self, data) -> None:
        """It claims nothing, and nothing waits for it; its next claim is that of an uncordoned."""
        worker = self._draw_alive(data)
        self._run(self._wire.worker_queue().close_lanes(worker))
        assert worker not in self._run(self._wire.waiting_by_worker())

    def _draw_alive(self, data) -> str:
        return data.draw(st.sampled_from(sorted(self._alive)))

    def _claim(
        self, worker: str, free: int, batch: int = _SLOTS, *, reply_is_lost: bool = False
    ) -> None:
        free = min(free, _SLOTS - len(self._jobs[worker]))
        if free <= 0 or self._runs_alone(worker):
            return
        claim = self._run(self._wire.worker_queue().claim(worker, free, batch))
        self._check_what_is_left(worker, claim, free, batch)
        if reply_is_lost:
            claim = self._what_it_does_not_know(worker)
        assert len(claim.entries) <= free
        assert not (claim.alone and (len(claim.entries) != 1 or self._jobs[worker]))
        assert not (claim.reserved and claim.entries)
        for entry in claim.entries:
            job = decode_request(entry.payload)
            ticket = self._tickets[job.request_id]
            assert job.alone == claim.alone
            assert job.attempt == ticket.request.attempt, "an attempt that was given up was claimed"
            assert not ticket.cancelled, "a cancelled request was claimed"
            assert not self._is_run_elsewhere(job), "two live workers run the same attempt"
            old = self._jobs[worker].get(job.request_id)
            if old is not None:  # the cancellation of an earlier attempt is late
                self._acknowledge(worker, old)
            self._jobs[worker][job.request_id] = Job(job.request_id, job.attempt, ticket.next_index)

    def _check_what_is_left(self, worker: str, claim: Claim, free: int, batch: int) -> None:
        """No slot stays free while something waits that it could run."""
        lanes = [decode_request(entry.payload).lane for entry in claim.entries]
        if claim.alone or claim.reserved:
            return
        assert lanes.count("batch") <= batch
        if len(lanes) == free:
            return
        waiting = self._run(self._wire.waiting_by_lane())
        assert not waiting["resume"]
        assert not waiting["interactive"]
        assert worker not in self._run(self._wire.waiting_by_worker()) or batch < free
        if lanes.count("batch") < batch:
            assert not waiting["batch_resume"]
            assert not waiting["batch"]

    def _what_it_does_not_know(self, worker: str) -> Claim:
        held = self._run(self._wire.worker_queue().held(worker))
        new = tuple(e for e in held.entries if e.request_id not in self._jobs[worker])
        return Claim(new, alone=held.alone)

    def _runs_alone(self, worker: str) -> bool:
        return any(self._tickets[name].request.alone for name in self._jobs[worker])

    def _is_run_elsewhere(self, job: GenerationRequest) -> bool:
        return any(
            jobs[job.request_id].attempt == job.attempt
            for worker, jobs in self._jobs.items()
            if worker in self._alive and job.request_id in jobs
        )

    @precondition(lambda self: self._alive)
    @rule(data=st.data(), count=st.integers(1, LENGTH))
    def publish_tokens(self, data, count) -> None:
        self._publish_tokens(self._draw_alive(data), count)

    @precondition(lambda self: self._zombies())
    @rule(data=st.data(), count=st.integers(1, LENGTH))
    def zombie_wakes(self, data, count) -> None:
        """A worker without a lease goes on as if nothing had happened, and is refused."""
        worker = data.draw(st.sampled_from(self._zombies()))
        with pytest.raises(FencedError):
            self._run(self._wire.claim(worker, 1))
        self._publish_tokens(worker, count)
        self._finish(worker)

    def _zombies(self) -> list[str]:
        return sorted(w for w, jobs in self._jobs.items() if jobs and w not in self._alive)

    def _publish_tokens(self, worker: str, count: int) -> None:
        jobs = [job for job in self._jobs[worker].values() if job.index < LENGTH]
        if not jobs:
            return
        events = []
        for job in jobs:
            some = min(count, LENGTH - job.index)
            events.append(tokens(job.request_id, job.attempt, job.index, some))
            job.index += some
        self._check_status(worker, self._run(self._wire.publish(worker, *events)))

    @precondition(lambda self: self._alive)
    @rule(data=st.data(), twice=st.booleans())
    def finish(self, data, twice) -> None:
        self._finish(self._draw_alive(data), twice=twice)

    def _finish(self, worker: str, *, twice: bool = False) -> None:
        """All that is complete ends; the write may be repeated after a lost reply."""
        done = [job for job in self._jobs[worker].values() if job.index >= LENGTH]
        if not done:
            return
        events = [finished(job.request_id, job.attempt, LENGTH) for job in done]
        ends = tuple(End(job.request_id, job.attempt) for job in done)
        status = self._run(self._wire.publish(worker, *events, ends=ends))
        self._check_status(worker, status)
        if twice and status == "OK":
            self._run(self._wire.publish(worker, ends=ends))
        for job in done:
            del self._jobs[worker][job.request_id]

    def _check_status(self, worker: str, status: str) -> None:
        assert status == ("OK" if worker in self._alive else "FENCED")
        self._num_fenced += status == "FENCED"

    @precondition(lambda self: self._alive)
    @rule(data=st.data())
    def hear_cancellations(self, data) -> None:
        worker = self._draw_alive(data)
        while (entry := self._run(self._wire.client.lpop(keys.control(worker)))) is not None:
            request_id, _, attempt = entry.decode().rpartition("|")
            job = self._jobs[worker].get(request_id)
            if job is not None and job.attempt == int(attempt):
                del self._jobs[worker][request_id]
                self._acknowledge(worker, job)

    def _acknowledge(self, worker: str, job: Job) -> None:
        ends = (End(job.request_id, job.attempt),)
        self._check_status(worker, self._run(self._wire.publish(worker, ends=ends)))

    @precondition(lambda self: self._alive)
    @rule(data=st.data())
    def lease_ends(self, data) -> None:
        """The worker sleeps, and becomes a zombie that may still write."""
        worker = self._draw_alive(data)
        self._run(self._wire.let_lease_end(worker))
        self._run(self._wire.directory.reap_expired())
        self._alive.discard(worker)

    @precondition(lambda self: self._alive)
    @rule(
        kind=st.sampled_from(["engine_crashed", "engine_died", "engine_hung", "handed_back"]),
        is_read=st.booleans(),
        data=st.data(),
    )
    def die(self, kind, is_read, data) -> None:
        """The parent reports; some of the requests may be suspect."""
        worker = self._draw_alive(data)
        names = sorted(self._jobs[worker])
        suspects = []
        if names and kind == "engine_crashed":
            suspects = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
        self._run(self._wire.directory.report_death(worker, kind, suspects))
        self._alive.discard(worker)
        self._jobs[worker] = {}
        if is_read:
            self.read_events()

    @rule()
    def redis_forgets_its_scripts(self) -> None:
        self._run(self._wire.client.script_flush())

    # --- what must always hold ---

    @invariant()
    def every_refused_write_is_counted(self) -> None:
        count = self._run(self._wire.client.get(keys.FENCED_WRITES))
        assert int(count or 0) == self._num_fenced

    @invariant()
    def no_request_is_lost(self) -> None:
        """An open request stands in the queue, in a worker's hands, or in an unread event."""
        held = self._run(self._wire.client.hkeys(keys.inflight(GATEWAY)))
        unread = self._run(self._wire.client.xrange(keys.events(GATEWAY), min=self._read_up_to))
        told = {
            event.request_id.encode()
            for _, fields in unread
            for event in decode_events(fields[b"b"]).events
        }
        for name, ticket in self._tickets.items():
            assert not ticket.is_open or name.encode() in {*held, *told}, f"{name} is lost"

    @invariant()
    def depth_counts_what_waits(self) -> None:
        waiting = self._run(self._wire.waiting_by_lane())
        depths = [int(each) for each in self._run(self._wire.client.hvals(keys.DEPTH))]
        assert all(depth >= 0 for depth in depths)
        assert sum(depths) == sum(waiting.values())

    @invariant()
    def own_lanes_are_counted_and_known(self) -> None:
        waiting = self._run(self._wire.waiting_by_worker())
        known = self._run(self._wire.client.smembers(keys.affine_workers(MODEL)))
        assert {worker.decode() for worker in known} == set(waiting)
        assert set(waiting) <= self._alive
        for worker in self._jobs:
            counts = self._run(self._wire.client.hmget(keys.affine(worker), _LANES))
            assert sum(int(count or 0) for count in counts) == waiting[worker]

    # --- the end ---

    def _finish_everything(self) -> None:
        """One good worker ends all that is left; then nothing may stand in Redis."""
        for worker in sorted(self._alive):
            self._run(self._wire.directory.report_death(worker, "handed_back"))
        self._alive.clear()
        last = self._new_worker()
        for _ in range(4 * len(self._tickets) + 4):
            self.read_events()
            self._claim(last, _SLOTS)
            self._publish_tokens(last, LENGTH)
            self._finish(last)
        self.read_events()
        unfinished = [name for name, ticket in self._tickets.items() if ticket.is_open]
        assert not unfinished, f"never ended: {unfinished}"
        assert self._run(self._wire.leftovers()) == {}
