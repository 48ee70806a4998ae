"""How much memory torch's tensors take at most while something runs, on any device.

Follows the storages of what every operation returns; what a kernel takes inside itself is not seen.
"""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakOfTensors(TorchDispatchMode):
    """Context manager; `peak_bytes` counts what was allocated inside it and lived together."""

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self._live_bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor):
                self._add(result.untyped_storage())
        return results

    def _add(self, storage: torch.UntypedStorage) -> None:
        address, num_bytes = storage.data_ptr(), storage.nbytes()
        if not num_bytes or address in self._known:
            return
        self._known.add(address)
        self._live_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        weakref.finalize(storage, self._remove, address, num_bytes)

    def _remove(self, address: int, num_bytes: int) -> None:
        self._known.discard(address)
        self._live_bytes -= num_bytes
