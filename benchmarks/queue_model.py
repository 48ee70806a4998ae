"""A model of the platform's queue, run in simulated time: lanes, fair shares, workers that die.

It has the rules of `services/protocol/scripts/claim.lua` (lanes in their order, in a lane the
tenant that was given least, no batch in reserved slots), and none of its costs: no gateway, no
network. A request takes as long as it is told, whatever runs beside it: give times of full workers.
What does *not* live here: what is simulated (`queue_simulation.py`).
"""

import math
import random
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import simpy

Lane = Literal["interactive", "batch"]
_ORDER = ("resume", "interactive", "batch_resume", "batch")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Workers of one model.

    Args:
        reserved: slots of each worker that batch never takes.
        is_fair: False: whoever came first is next, for comparison.
    """

    workers: int
    slots: int
    reserved: int = 0
    is_fair: bool = True


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests of one tenant, Poisson in time.

    Args:
        service_s: draws how long one takes.
    """

    tenant: str
    per_s: float
    service_s: Callable[[random.Random], float]
    lane: Lane = "interactive"


@dataclass(frozen=True, slots=True)
class Loss:
    """Workers that die at once.

    Args:
        notice_s: until their requests are queued again.
        again_s: what a request needs more where it goes on: its prefill.
        back_s: until they are ready again.
    """

    at_s: float
    workers: int
    notice_s: float
    again_s: float
    back_s: float


@dataclass(slots=True)
class Request:
    """One request on its way."""

    tenant: str
    lane: str
    arrived_s: float
    service_s: float
    waited_s: float = math.nan
    paused_s: float = 0.0
    ends_s: float = math.nan
    runs: int = 0
    queued_s: float = 0.0


@dataclass(slots=True)
class _Worker:
    free: int
    batch: int = 0
    is_alive: bool = True
    running: set[int] = field(default_factory=set[int])


class _Tenants:
    """A lane's waiting requests, by tenant."""

    def __init__(self, *, is_fair: bool) -> None:
        self._is_fair = is_fair
        self._waiting: dict[str, deque[Request]] = {}
        self._given: dict[str, float] = {}
        self._served_at = 0.0

    def add(self, request: Request) -> None:
        tenant = request.tenant if self._is_fair else ""
        if tenant not in self._waiting:
            # nobody saves up turns by staying away
            self._given[tenant] = max(self._given.get(tenant, 0.0), self._served_at)
            self._waiting[tenant] = deque()
        self._waiting[tenant].append(request)

    def next(self) -> Request | None:
        if not self._waiting:
            return None
        tenant = min(self._waiting, key=self._given.__getitem__)
        request = self._waiting[tenant].popleft()
        self._served_at = self._given[tenant]
        self._given[tenant] += request.service_s
        if not self._waiting[tenant]:
            del self._waiting[tenant]
        return request

    def __bool__(self) -> bool:
        return bool(self._waiting)


class QueueModel:
    """Run it with `run`; `started` then has every request that got a slot."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._draw = random.Random(seed)
        self._env = simpy.Environment()
        self._lanes = {name: _Tenants(is_fair=cluster.is_fair) for name in _ORDER}
        self._workers = [_Worker(cluster.slots) for _ in range(cluster.workers)]
        self._offers = deque(range(cluster.workers))
        self._requests: dict[int, Request] = {}
        self._num_requests = 0
        self.started: list[Request] = []
        self.interrupted: list[Request] = []

    def run(
        self,
        seconds: float,
        traffic: Iterable[Traffic] = (),
        losses: Iterable[Loss] = (),
        trace: Sequence[tuple[float, float]] = (),
    ) -> None:
        """Simulate so long.

        Args:
            trace: of one tenant, given instead of drawn: when each comes, how long it takes.
        """
        for each in traffic:
            self._env.process(self._arrivals(each))
        for loss in losses:
            self._at(loss.at_s, lambda loss=loss: self._lose(loss))
        for at_s, service_s in trace:
            request = Request("trace", "interactive", at_s, service_s)
            self._at(at_s, lambda request=request: self._arrive(request))
        self._env.run(until=seconds)

    def _at(self, delay_s: float, act: Callable[[], None]) -> None:
        event = self._env.timeout(delay_s)
        event.callbacks.append(lambda _: act())

    def _arrivals(self, traffic: Traffic) -> Generator[simpy.Event, Any, None]:
        while True:
            yield self._env.timeout(self._draw.expovariate(traffic.per_s))
            service_s = traffic.service_s(self._draw)
            self._arrive(Request(traffic.tenant, traffic.lane, self._env.now, service_s))

    def _arrive(self, request: Request) -> None:
        request.queued_s = self._env.now
        self._lanes[request.lane].add(request)
        self._claim()

    def _claim(self) -> None:
        """Give free slots to who is next, as each worker with room would claim."""
        for lane in _ORDER:
            most = self._cluster.slots - (self._cluster.reserved if "batch" in lane else 0)
            while self._lanes[lane]:
                worker = self._with_room(most if "batch" in lane else None)
                if worker is None:
                    break
                request = self._lanes[lane].next()
                assert request is not None
                self._start(worker, request)

    def _with_room(self, most_batch: int | None) -> int | None:
        """Return a worker that has room, each in its turn."""
        for _ in range(len(self._offers)):
            number = self._offers[0]
            worker = self._workers[number]
            if worker.free == 0:
                self._offers.popleft()  # it is offered again when a slot is freed
                continue
            self._offers.rotate(-1)
            if most_batch is None or worker.batch < most_batch:
                return number
        return None

    def _start(self, number: int, request: Request) -> None:
        worker, now = self._workers[number], self._env.now
        worker.free -= 1
        worker.batch += "batch" in request.lane
        if math.isnan(request.waited_s):
            request.waited_s = now - request.arrived_s
            self.started.append(request)
        else:
            request.paused_s += now - request.queued_s
        self._num_requests += 1
        run = self._num_requests
        request.runs += 1
        request.ends_s = now + request.service_s
        worker.running.add(run)
        self._requests[run] = request
        self._at(request.service_s, lambda: self._end(number, run))

    def _end(self, number: int, run: int) -> None:
        worker = self._workers[number]
        if run not in worker.running:
            return  # its worker died before
        worker.running.remove(run)
        request = self._requests.pop(run)
        worker.batch -= "batch" in request.lane
        worker.free += 1
        if worker.free == 1:
            self._offers.append(number)
        self._claim()

    def _lose(self, loss: Loss) -> None:
        alive = [number for number, worker in enumerate(self._workers) if worker.is_alive]
        for number in self._draw.sample(alive, loss.workers):
            worker = self._workers[number]
            lost = [self._requests.pop(run) for run in worker.running]
            self._workers[number] = _Worker(0, is_alive=False)
            for request in lost:
                request.service_s = request.ends_s - self._env.now + loss.again_s
                request.lane = "batch_resume" if "batch" in request.lane else "resume"
                request.paused_s += loss.notice_s + loss.again_s
                self.interrupted.append(request)
                self._at(loss.notice_s, lambda request=request: self._arrive(request))
            self._at(loss.back_s, lambda number=number: self._return(number))

    def _return(self, number: int) -> None:
        self._workers[number] = _Worker(self._cluster.slots)
        self._offers.append(number)
        self._claim()


def erlang_c(servers: int, load: float) -> float:
    """Return the share of requests that wait in M/M/c (A. K. Erlang, 1917).

    Args:
        servers: c.
        load: of each server, below 1.
    """
    offered = servers * load
    blocked = 1.0  # Erlang B by its recursion, which overflows nowhere
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - load * (1 - blocked))


def mean_wait_s(servers: int, load: float, service_s: float) -> float:
    """Return the mean waiting time in M/M/c."""
    return erlang_c(servers, load) * service_s / (servers * (1 - load))


def wait_quantile_s(servers: int, load: float, service_s: float, share: float) -> float:
    """Return what `share` of all requests wait at most in M/M/c, whose waits are exponential."""
    waiting = erlang_c(servers, load)
    if waiting <= 1 - share:
        return 0.0
    return math.log(waiting / (1 - share)) * service_s / (servers * (1 - load))


def most_load(servers: int, service_s: float, share: float, limit_s: float) -> float:
    """Return the largest load at which `share` of all requests wait no longer than `limit_s`."""
    low, high = 0.0, 1.0 - 1e-9
    for _ in range(50):
        middle = (low + high) / 2
        is_short = wait_quantile_s(servers, middle, service_s, share) <= limit_s
        low, high = (middle, high) if is_short else (low, middle)
    return low
