"""How vLLM's worker processes tell the engine whose logits are not finite.

vLLM's outputs have no place for that, so there is a file in memory: a worker appends the number of
a request, and the engine reads on where it stopped. A number is written before the output of that
step is sent, so the engine never takes a token of it for an answer. No torch, no vLLM.
"""

import os
import struct
from collections.abc import Iterable
from pathlib import Path

_NUMBER = struct.Struct("<Q")


class FaultLog:
    """The engine's end."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("galen-vllm-faults")
        self._offset = 0

    @property
    def path(self) -> str:
        """Where vLLM's processes, which are started anew, find it while this one lives."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def read_new(self) -> frozenset[int]:
        """Return the numbers that came since the last call."""
        num_bytes = os.fstat(self._fd).st_size - self._offset
        if num_bytes < _NUMBER.size:
            return frozenset()
        found = os.pread(self._fd, num_bytes - num_bytes % _NUMBER.size, self._offset)
        self._offset += len(found)
        return frozenset(number for (number,) in _NUMBER.iter_unpack(found))

    def close(self) -> None:
        """Free it."""
        os.close(self._fd)


def report(path: str, numbers: Iterable[int]) -> None:
    """Append requests' numbers; any number of processes may do so at once."""
    with Path(path).open("ab", buffering=0) as log:
        log.write(b"".join(map(_NUMBER.pack, numbers)))
