"""One model on several ranks: each holds a part of every layer, and all make the same calls.

Rank 0 is the engine process. It starts the other ranks as children and passes every call of
`ModelRunner` on to them through a pipe before it makes it itself, so that all ranks go through the
same collectives in the same order. Only its own logits are used: the tokens chosen from them go out
with the next call. An idle rank waits in a read, not in a collective. Any failure on any rank ends
all of them; the worker's parent starts them again.

Frames: two little-endian 8-byte lengths, a MessagePack header (name of the call and its plain
arguments), and tensors in safetensors' format. What does *not* live here: a child's own loop
(`tensor_parallel_rank.py`) and the plan of what is sharded (`sharding_plan.py`).
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, NoReturn

import msgspec
import safetensors.torch
import structlog
import torch
from torch import distributed
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]  # missing in its __all__

from services.worker.engines.base import (
    EngineStartError,
    end_process,
)
from services.worker.engines.image_feature_cache import ImageKey
from services.worker.engines.model_runner import ModelRunner, Prefilled
from services.worker.exit_codes import EXIT_CANNOT_START, EXIT_ENGINE_BROKEN, KILLED_FROM_OUTSIDE
from services.worker.settings import child_environment, set_rank_environment

log = structlog.get_logger(__name__)

HOST = "127.0.0.1"
_RENDEZVOUS = timedelta(seconds=120)
_END_S = 3.0
_NOTICE_S = 0.5  # from the end of a rank's connections to its exit code


class Call(msgspec.Struct, frozen=True, array_like=True):
    """One call of `ModelRunner`, as it goes through the pipe."""

    name: str
    numbers: list[int] = []
    options: dict[str, bool | int | float | str | None] = {}


_decoder = msgspec.msgpack.Decoder(Call)


def write_call(stream: IO[bytes], call: Call, tensors: dict[str, torch.Tensor]) -> None:
    """Write a frame; raises OSError where the other side is gone."""
    header = msgspec.msgpack.encode(call)
    body = safetensors.torch.save(tensors) if tensors else b""
    stream.write(len(header).to_bytes(8, "little") + len(body).to_bytes(8, "little"))
    stream.write(header)
    stream.write(body)
    stream.flush()


def read_call(stream: IO[bytes]) -> tuple[Call, dict[str, torch.Tensor]] | None:
    """Read a frame; None at the end of the stream."""
    lengths = stream.read(16)
    if len(lengths) < 16:
        return None
    header = stream.read(int.from_bytes(lengths[:8], "little"))
    body = stream.read(int.from_bytes(lengths[8:], "little"))
    return _decoder.decode(header), safetensors.torch.load(body) if body else {}


def join_group(rank: int, ranks: int, store: Store, device: str) -> None:
    """Enter the process group: NCCL where ranks have cards of their own, else gloo on loopback."""
    set_rank_environment(rank, ranks)
    is_cuda = device.startswith("cuda")
    if is_cuda:
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        "nccl" if is_cuda else "gloo", store=store, rank=rank, world_size=ranks, timeout=_RENDEZVOUS
    )


def threads_per_rank(ranks: int, num_threads: int | None) -> int:
    """Return torch's threads for one of `ranks` processes that share this machine's cores."""
    if num_threads is not None:
        return num_threads
    return max(1, len(os.sched_getaffinity(0)) // ranks)


class RankGroup:
    """The other ranks, as rank 0 sees them; to be used from the thread that started them.

    Linux kills a child whose parent *thread* ends, so that thread has to live as long as they.
    """

    def __init__(self, ranks: int, device: str, num_threads: int | None) -> None:
        self._ranks = ranks
        self._device = device
        self._threads = threads_per_rank(ranks, num_threads)
        self._children: list[subprocess.Popen[bytes]] = []
        self._is_closing = False

    def start(self, checkpoint: Path, dtype: str, attention: str) -> None:
        """Start the children, which load the same checkpoint, and meet them."""
        torch.set_num_threads(self._threads)
        store = TCPStore(
            HOST, 0, self._ranks, is_master=True, timeout=_RENDEZVOUS, wait_for_workers=False
        )
        for rank in range(1, self._ranks):
            command = [
                sys.executable, "-m", "services.worker.engines.tensor_parallel_rank",
                "--parent-pid", str(os.getpid()), "--rank", str(rank),
                "--ranks", str(self._ranks), "--port", str(store.port),
                "--threads", str(self._threads), "--device", self._device,
                "--dtype", dtype, "--attention", attention, str(checkpoint),
            ]  # fmt: skip
            child = subprocess.Popen(  # noqa: S603 - our own module
                command, stdin=subprocess.PIPE, env=child_environment()
            )
            self._children.append(child)
            threading.Thread(target=self._watch, args=(rank, child), daemon=True).start()
        try:
            join_group(0, self._ranks, store, self._device)
        except RuntimeError as error:
            raise EngineStartError(
                f"the {self._ranks} ranks did not meet ({type(error).__name__}); see the log above"
            ) from error

    def call(self, call: Call, tensors: dict[str, torch.Tensor] | None = None) -> None:
        """Pass a call on to every other rank."""
        try:
            for child in self._children:
                assert child.stdin is not None  # noqa: S101 - it was started with a pipe
                write_call(child.stdin, call, tensors or {})
        except OSError as error:
            self.end_all(error)

    def end_all(self, error: Exception) -> NoReturn:
        """End this process, because a call failed; of a lost rank, that may be the first sign."""
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                _die_like(child.wait(_NOTICE_S))
        end_process(error)

    def close(self) -> None:
        """End the other ranks and leave the group."""
        self._is_closing = True
        for child in self._children:
            with contextlib.suppress(OSError):
                assert child.stdin is not None  # noqa: S101
                child.stdin.close()
        for child in self._children:
            try:
                child.wait(_END_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children.clear()
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def _watch(self, rank: int, child: "subprocess.Popen[bytes]") -> None:
        """End this process when a rank is lost: its collectives would wait for ever."""
        code = child.wait()
        if not self._is_closing:
            log.critical("engine.rank.lost", rank=rank, exit_code=code)
            _die_like(code)
            os._exit(EXIT_CANNOT_START if code == EXIT_CANNOT_START else EXIT_ENGINE_BROKEN)


def _die_like(code: int) -> None:
    """Be killed from outside as a rank was: then no request is suspected."""
    if code in KILLED_FROM_OUTSIDE:
        os.kill(os.getpid(), signal.SIGKILL)


class ShardedRunner(ModelRunner):
    """`ModelRunner` on rank 0: each call is made on all ranks."""

    def __init__(self, group: RankGroup, model: Any, max_rows: int, context_length: int) -> None:
        super().__init__(model, max_rows, context_length)
        self._group = group
        group.call(Call("build", [max_rows, context_length]))
        self._last: Prefilled | None = None

    def prefill(self, inputs: dict[str, Any], image_keys: Sequence[ImageKey] = ()) -> Prefilled:
        """See `ModelRunner`; no features are kept, as no rank could know what the others keep."""
        tensors = {n: v.contiguous() for n, v in inputs.items() if isinstance(v, torch.Tensor)}
        options = {name: value for name, value in inputs.items() if name not in tensors}
        with self._on_all_ranks(Call("prefill", options=options), tensors):
            self._last = super().prefill(inputs, image_keys)
        return self._last

    def add_row(self, prefilled: Prefilled) -> int:
        if prefilled is not self._last:
            raise ValueError("only the last prefilled sequence is known to all ranks")
        with self._on_all_ranks(Call("add_row")):
            return super().add_row(prefilled)

    def remove_row(self, row: int) -> None:
        with self._on_all_ranks(Call("remove_row", [row])):
            super().remove_row(row)

    def clear(self) -> None:
        with self._on_all_ranks(Call("clear")):
            super().clear()

    def decode(self, token_ids: Sequence[int]) -> torch.Tensor:
        with self._on_all_ranks(Call("decode", list(token_ids))):
            return super().decode(token_ids)

    @contextlib.contextmanager
    def _on_all_ranks(
        self, call: Call, tensors: dict[str, torch.Tensor] | None = None
    ) -> Iterator[None]:
        """Pass a call on; if it then fails here, no rank can know what the others hold."""
        self._group.call(call, tensors)
        try:
            yield
        except Exception as error:  # noqa: BLE001 (the ranks may be out of step)
            self._group.end_all(error)
