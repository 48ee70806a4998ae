"""Decodes images in child processes: the gateway itself never opens an untrusted file.

A small pool of `decode_process` children, one job each at a time. A child that dies or takes too
long is killed, its job is an invalid image, and the next job gets a new child. What does *not* live
here: what a child does (`decode_process.py`), caching and storing (`images.py`).
"""

import asyncio
import contextlib
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import structlog

from services.gateway.media.decode_messages import (
    LENGTH,
    PLAIN,
    DecodedImage,
    DecodeJob,
    Preparation,
    Refusal,
    answer_decoder,
    encoder,
)
from services.protocol.errors import ErrorCode, OverloadedError, RequestError, UnavailableError
from services.protocol.image_store import MAX_STORED_BYTES

_log = structlog.get_logger()

MAX_IMAGE_PIXELS = 40_000_000

# Bounds what one step of the event loop copies.
_CHUNK_LENGTH = 256 * 1024
# Above an answer's length, so that reading is never paused.
_READ_LIMIT_BYTES = 4 * MAX_STORED_BYTES
_START_LIMIT_S = 20.0
_START_ATTEMPTS = 2
_RETRY_AFTER_S = 1.0
_SOURCE_ROOT = Path(__file__).parents[3]


class ImageDecoder:
    """A pool of decoder children; `async with` starts and closes it.

    Args:
        num_children: images that are decoded at once.
        max_waiting: jobs that may wait for a child; one more raises OverloadedError.
        max_pixels: of one image as sent.
        cpu_limit_s: CPU time of a job, seconds (reliability goal: 5).
        wall_limit_s: time of a job, seconds, waiting for a child not included: far above that of
            the CPU, so that a busy machine calls no good image invalid.
        on_decoded: called with the seconds of a job, however it ended.
    """

    def __init__(
        self,
        *,
        num_children: int = 2,
        max_waiting: int = 64,
        max_pixels: int = MAX_IMAGE_PIXELS,
        cpu_limit_s: float = 5.0,
        wall_limit_s: float = 20.0,
        on_decoded: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._on_decoded = on_decoded
        self._max_waiting = max_waiting
        self._max_pixels = max_pixels
        self._cpu_limit_s = cpu_limit_s
        self._wall_limit_s = wall_limit_s
        self._slots = [_Slot() for _ in range(num_children)]
        self._idle: asyncio.LifoQueue[_Slot] = asyncio.LifoQueue()
        self._num_waiting = 0
        self._is_closed = False

    async def __aenter__(self) -> "ImageDecoder":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def child_pids(self) -> list[int]:
        """Process ids of the children that are alive."""
        children = [slot.child for slot in self._slots]
        return [one.process.pid for one in children if one is not None and one.is_alive]

    @property
    def num_waiting(self) -> int:
        """Jobs that wait for a child."""
        return self._num_waiting

    @property
    def num_idle(self) -> int:
        """Children (or places for one) without a job."""
        return self._idle.qsize()

    async def start(self) -> None:
        """Start the children; raises UnavailableError if they cannot be."""
        await asyncio.gather(*(slot.ensure_child() for slot in self._slots))
        for slot in self._slots:
            self._idle.put_nowait(slot)

    async def decode(
        self,
        payload_base64: str | bytes,
        declared_mime: str,
        preparation: Preparation = PLAIN,
        *,
        payload_start: int = 0,
        is_preview: bool = False,
    ) -> DecodedImage:
        """Return clean pixels of one image, prepared.

        Cancelling kills the child, so that its time goes to another job.

        Args:
            payload_base64: base64, or a text that ends with it (a data URL need not be copied).
            declared_mime: one of `data_url.FORMAT_BY_MIME`.
            payload_start: index of the first character of the base64.
            is_preview: as PNG of any size, to be looked at.

        Raises:
            RequestError: the image is not taken.
            OverloadedError: too many jobs wait already.
            UnavailableError: no child can be started, or the pool is closed.
        """
        slot = await self._claim_slot()
        try:
            child = await slot.ensure_child()
            job = DecodeJob(
                payload_length=len(payload_base64) - payload_start,
                declared_mime=declared_mime,
                preparation=preparation,
                max_pixels=self._max_pixels,
                max_data_bytes=MAX_STORED_BYTES,
                cpu_limit_s=self._cpu_limit_s,
                is_preview=is_preview,
            )
            started = time.monotonic()
            try:
                answer = await self._run(slot, child, job, (payload_base64, payload_start))
            finally:
                self._on_decoded(time.monotonic() - started)
        finally:
            self._idle.put_nowait(slot)
        if isinstance(answer, Refusal):
            raise RequestError(ErrorCode(answer.code), answer.message, param=answer.field or None)
        return answer

    async def close(self) -> None:
        """Kill the children; jobs under way end as for a child that died."""
        self._is_closed = True
        await asyncio.gather(*(slot.close() for slot in self._slots))

    async def _claim_slot(self) -> "_Slot":
        if self._is_closed:
            raise _shutting_down()
        if self._idle.empty() and self._num_waiting >= self._max_waiting:
            raise OverloadedError(
                ErrorCode.OVERLOADED,
                "too many images wait to be decoded; try again",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._num_waiting += 1
        try:
            return await self._idle.get()
        finally:
            self._num_waiting -= 1

    async def _run(
        self, slot: "_Slot", child: "_Child", job: DecodeJob, payload: tuple[str | bytes, int]
    ) -> DecodedImage | Refusal:
        try:
            async with asyncio.timeout(self._wall_limit_s):
                return await child.exchange(job, *payload)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            slot.kill()
            if self._is_closed:
                raise _shutting_down() from None
            return Refusal(
                ErrorCode.INVALID_IMAGE, "the image takes too much time or memory to decode"
            )
        except BaseException:
            slot.kill()
            raise


@dataclass(slots=True)
class _Child:
    process: Process
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    was_killed: bool = False

    @property
    def is_alive(self) -> bool:
        return self.process.returncode is None

    async def exchange(
        self, job: DecodeJob, payload: str | bytes, start: int
    ) -> DecodedImage | Refusal:
        """Send one job and return the answer; raises OSError or IncompleteReadError on a death."""
        header = encoder.encode(job)
        self.stdin.write(LENGTH.pack(len(header)) + header)
        for chunk in _chunks(payload, start):
            self.stdin.write(chunk)
            await self.stdin.drain()
        return answer_decoder.decode(await self.read_frame())

    async def read_frame(self) -> bytes:
        (length,) = LENGTH.unpack(await self.stdout.readexactly(LENGTH.size))
        return await self.stdout.readexactly(length)

    async def reap(self) -> None:
        """Collect what is left of a killed child."""
        self.stdin.close()
        with contextlib.suppress(OSError):
            await self.stdin.wait_closed()
        code = await self.process.wait()
        if not self.was_killed:
            _log.warning("image.decoder.died", exit_code=code)


class _Slot:
    """A place for one child, which is replaced when it is gone."""

    def __init__(self) -> None:
        self.child: _Child | None = None
        self._reapers: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def ensure_child(self) -> _Child:
        """Return the child; start one where none is alive."""
        if self.child is not None and self.child.is_alive:
            return self.child
        for _ in range(_START_ATTEMPTS):
            self.kill()
            if self._is_closed:
                raise _shutting_down()
            try:
                return await self._start_child()
            except (OSError, asyncio.IncompleteReadError):  # a TimeoutError is an OSError
                continue
            except BaseException:
                self.kill()
                raise
        self.kill()
        raise UnavailableError(
            ErrorCode.BACKEND_UNAVAILABLE,
            "no image decoder can be started; try again",
            retry_after_s=_RETRY_AFTER_S,
        )

    async def _start_child(self) -> _Child:
        async with asyncio.timeout(_START_LIMIT_S):
            self.child = child = await _spawn()
            await child.read_frame()  # it is ready
        return child

    def kill(self) -> None:
        """Kill the child, if there is one, and let a task collect what is left of it."""
        child, self.child = self.child, None
        if child is None:
            return
        if child.is_alive:
            with contextlib.suppress(ProcessLookupError):
                child.process.kill()
                child.was_killed = True
        reaper = asyncio.create_task(child.reap())
        self._reapers.add(reaper)
        reaper.add_done_callback(self._reapers.discard)

    async def close(self) -> None:
        """Kill the child for good."""
        self._is_closed = True
        self.kill()
        await asyncio.gather(*self._reapers)


def _shutting_down() -> UnavailableError:
    return UnavailableError(
        ErrorCode.SHUTTING_DOWN, "the server is shutting down", retry_after_s=_RETRY_AFTER_S
    )


async def _spawn() -> _Child:
    # -P and a bare environment: neither the current directory nor a secret gets into the child
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "services.gateway.media.decode_process",
        stdin=PIPE,
        stdout=PIPE,
        limit=_READ_LIMIT_BYTES,
        env={"PYTHONPATH": str(_SOURCE_ROOT), "LC_ALL": "C.UTF-8"},
        cwd="/",
    )
    if process.stdin is None or process.stdout is None:
        raise OSError("the child has no pipes")
    return _Child(process, process.stdin, process.stdout)


def _chunks(payload: str | bytes, start: int) -> Iterator[bytes]:
    for position in range(start, len(payload), _CHUNK_LENGTH):
        chunk = payload[position : position + _CHUNK_LENGTH]
        # "?" keeps the length and is not base64: the child refuses it
        yield chunk.encode("ascii", "replace") if isinstance(chunk, str) else chunk
