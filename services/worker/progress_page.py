"""One page of memory in which the engine process says that it moves, for its parent to read.

The parent must see a hang or a death without any help of the process that hangs or died, and must
know which requests were being admitted then: they are the likely cause. The page is an anonymous
file shared by inheritance, so it leaves nothing behind.

Layout: beat and last step (seconds, CLOCK_MONOTONIC), steps, running, state, worker id, request ids
being admitted (newline-separated; too many to fit stand as `ALL_SUSPECT`). To begin or to end an
admission is progress, so that its time does not count as that of the decoding around it.
"""

import mmap
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from services.protocol.messages import WorkerState
from services.protocol.worker_directory import ALL_SUSPECT

_HEAD = struct.Struct("<ddQI12s96sI")
_SIZE = 16_384
_ROOM = _SIZE - _HEAD.size
_BEAT, _STEP = 0, 1  # places of the two times, eight bytes each
_COUNTS = struct.Struct("<QI")
_COUNTS_AT = 16


@dataclass(frozen=True, slots=True)
class StepLimits:
    """Longest steps, seconds: one that only decodes, one that admits requests."""

    decode_s: float
    prefill_s: float


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """What stands on the page.

    Args:
        beat: last turn of the event loop, seconds of CLOCK_MONOTONIC; 0.0 before the first.
        last_step: end of the last engine step, or the moment at which the engine became busy.
        admitting: requests that were entering the batch.
    """

    beat: float
    last_step: float
    steps: int
    running: int
    state: WorkerState
    worker_id: str
    admitting: tuple[str, ...]

    def is_hung(self, now: float, limits: StepLimits) -> bool:
        """Whether the engine has work and has not finished a step for too long."""
        limit_s = limits.prefill_s if self.admitting else limits.decode_s
        return self.running > 0 and now - self.last_step > limit_s


class ProgressPage:
    """The page, for both sides; the engine process writes, its parent reads."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, _SIZE)
        # Each time is written and read as a whole. `struct.pack_into` writes zeros first: a parent
        # that reads then takes an engine for one that has hung since the machine was started.
        self._times = memoryview(self._map)[: 2 * 8].cast("d")
        self._steps = 0
        self._running = 0
        self._is_admitting = False

    @classmethod
    def create(cls) -> "ProgressPage":
        """Make an empty page; a child that inherits `fd` opens it with `ProgressPage(fd)`."""
        fd = os.memfd_create("galen-progress")
        os.ftruncate(fd, _SIZE)
        return cls(fd)

    def clear(self) -> None:
        """Make the page ready for a new child."""
        self._map[:_SIZE] = bytes(_SIZE)

    def close(self) -> None:
        """Free the page."""
        self._times.release()
        self._map.close()
        os.close(self.fd)

    # --- the engine process writes ---

    def set_state(self, state: WorkerState, worker_id: str) -> None:
        """Say what the process is doing, and under which worker id it holds requests."""
        self._map[28:40] = state.encode().ljust(12, b"\0")
        self._map[40:136] = worker_id.encode().ljust(96, b"\0")

    def beat(self) -> None:
        """Say that the event loop turns."""
        self._times[_BEAT] = time.monotonic()

    @property
    def steps(self) -> int:
        """Engine steps so far."""
        return self._steps

    def set_running(self, running: int) -> None:
        """Say how many requests the engine holds; a busy time begins with the first."""
        if self._running == 0 and running > 0:
            self._times[_STEP] = time.monotonic()
        self._running = running
        _COUNTS.pack_into(self._map, _COUNTS_AT, self._steps, running)

    def admitting(self, request_ids: Sequence[str]) -> None:
        """See `StepProgress.admitting`."""
        blob = "\n".join(request_ids).encode()
        if len(blob) > _ROOM:
            blob = ALL_SUSPECT.encode()
        self._times[_STEP] = time.monotonic()
        self._map[_HEAD.size : _HEAD.size + len(blob)] = blob
        struct.pack_into("<I", self._map, _HEAD.size - 4, len(blob))
        self._is_admitting = True

    def step_done(self) -> None:
        """See `StepProgress.step_done`."""
        self._steps += 1
        self._times[_STEP] = time.monotonic()
        _COUNTS.pack_into(self._map, _COUNTS_AT, self._steps, self._running)
        if self._is_admitting:
            struct.pack_into("<I", self._map, _HEAD.size - 4, 0)
            self._is_admitting = False

    # --- its parent reads ---

    def read(self) -> ProgressSnapshot:
        """Return what stands on the page now."""
        beat, last_step = self._times
        _, _, steps, running, state, worker_id, length = _HEAD.unpack_from(self._map)
        ids = self._map[_HEAD.size : _HEAD.size + length].decode()
        text = state.rstrip(b"\0").decode() or "starting"
        return ProgressSnapshot(
            beat,
            last_step,
            steps,
            running,
            text,  # pyright: ignore[reportArgumentType] - written by set_state
            worker_id.rstrip(b"\0").decode(),
            tuple(ids.split("\n")) if ids else (),
        )
