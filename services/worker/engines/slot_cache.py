"""The KV cache of a running batch: one row per sequence, rows of different lengths.

Every sequence is prefilled alone; its keys and values are copied into a row here, and the decode
step writes each row at its own position. Live rows are always 0 … B-1. What does *not* live here:
which sequence sits in which row (`batch_scheduler.py`) and the attention mask (`model_runner.py`).

Shapes: B live rows, R allocated rows, H KV heads, C allocated positions, W positions in use, D head
width.
"""

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_FIRST_POSITIONS = 128


class _DecodeStep:
    """Where this decode step writes: shared by all layers."""

    def __init__(self) -> None:
        self.rows_B = torch.zeros(0, dtype=torch.long)
        self.positions_B = torch.zeros(0, dtype=torch.long)
        self.width = 0


class _SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, [R, H, C, D] each, in the model's dtype and on its device."""

    is_sliding = False

    def __init__(self, step: _DecodeStep) -> None:
        super().__init__()
        self._step = step
        self.key_RHCD = torch.zeros(0)
        self.value_RHCD = torch.zeros(0)

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        raise NotImplementedError("rows are added by SlotCache.add_row")

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *_args: object,
        **_kwargs: object,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one position per row; returns views [B, H, W, D] of all that may be attended to."""
        step = self._step
        num_rows = step.rows_B.shape[0]
        # a device map may put this layer on another card than the first
        rows_B = step.rows_B.to(self.key_RHCD.device)
        positions_B = step.positions_B.to(self.key_RHCD.device)
        self.key_RHCD[rows_B, :, positions_B] = key_states[:, :, 0]
        self.value_RHCD[rows_B, :, positions_B] = value_states[:, :, 0]
        return (
            self.key_RHCD[:num_rows, :, : step.width],
            self.value_RHCD[:num_rows, :, : step.width],
        )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002 (its interface)
        return self._step.width, 0

    def get_seq_length(self) -> int:
        return self._step.width - 1

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """KV cache of up to `max_rows` sequences; grows with what is in it, up to `max_positions`."""

    def __init__(self, num_layers: int, max_rows: int, max_positions: int) -> None:
        self._step = _DecodeStep()
        self._layers = [_SlotLayer(self._step) for _ in range(num_layers)]
        super().__init__(layers=list(self._layers))
        self._max_rows = max_rows
        self._max_positions = max_positions
        self._capacity = (0, 0)
        self.lengths: list[int] = []

    @torch.inference_mode()
    def add_row(self, prefilled: Cache) -> int:
        """Copy a prefilled sequence ([1, H, length, D] per layer) into a new last row.

        Returns:
            Its row number.
        """
        row = len(self.lengths)
        length = prefilled.get_seq_length()
        self._reserve(row + 1, length + 1, like=prefilled)
        for layer, (key_1HLD, value_1HLD) in zip(self._layers, _states(prefilled), strict=True):
            for own_RHCD, new_1HLD in ((layer.key_RHCD, key_1HLD), (layer.value_RHCD, value_1HLD)):
                own_RHCD[row, :, :length] = new_1HLD[0]
                # What an earlier sequence left behind is masked, but 0 x NaN would still be NaN.
                own_RHCD[row, :, length:] = 0
        self.lengths.append(length)
        return row

    @torch.inference_mode()
    def remove_row(self, row: int) -> None:
        """Take a sequence out; the last row moves into its place."""
        last = len(self.lengths) - 1
        if row != last:
            for layer in self._layers:
                layer.key_RHCD[row] = layer.key_RHCD[last]
                layer.value_RHCD[row] = layer.value_RHCD[last]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        if not self.lengths:
            self._release()

    @torch.inference_mode()
    def begin_step(self) -> torch.Tensor:
        """Make room for one more position per live row.

        Returns:
            Positions [B] at which this step writes, long, on the cache's device.
        """
        width = max(self.lengths) + 1
        self._reserve(len(self.lengths), width)
        device = self._layers[0].key_RHCD.device
        self._step.rows_B = torch.arange(len(self.lengths), device=device)
        self._step.positions_B = torch.tensor(self.lengths, device=device)
        self._step.width = width
        self.lengths = [length + 1 for length in self.lengths]
        return self._step.positions_B

    def _reserve(self, num_rows: int, positions: int, like: Cache | None = None) -> None:
        """Grow to hold `num_rows` and `positions`, each at least doubling when it grows."""
        rows, capacity = self._capacity
        if num_rows <= rows and positions <= capacity:
            return
        if num_rows > rows:
            rows = max(num_rows, min(2 * rows, self._max_rows))
        if positions > capacity:
            capacity = grown_positions(capacity, positions, self._max_positions)
        if like is not None and not self._capacity[0]:
            for layer, (key_1HLD, value_1HLD) in zip(self._layers, _states(like), strict=True):
                layer.key_RHCD, layer.value_RHCD = key_1HLD[:0], value_1HLD[:0]
        for layer in self._layers:
            layer.key_RHCD = _grown(layer.key_RHCD, rows, capacity)
            layer.value_RHCD = _grown(layer.value_RHCD, rows, capacity)
        self._capacity = (rows, capacity)

    def _release(self) -> None:
        """Give the memory back: nothing is running."""
        for layer in self._layers:
            layer.key_RHCD = torch.zeros(0)
            layer.value_RHCD = torch.zeros(0)
        self._capacity = (0, 0)


def grown_positions(capacity: int, positions: int, max_positions: int) -> int:
    """Return how many positions are allocated where `capacity` are too few for `positions`."""
    return max(positions, min(max(2 * capacity, _FIRST_POSITIONS), max_positions))


def _states(prefilled: Cache) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return keys and values per layer, [1, H, length, D] each."""
    return [(layer.keys, layer.values) for layer in prefilled.layers]  # type: ignore[union-attr]


def _grown(old_RHCD: torch.Tensor, rows: int, capacity: int) -> torch.Tensor:
    """Return zeros of the new size with the old rows copied in."""
    num_rows, heads, positions, width = old_RHCD.shape
    new_RHCD = old_RHCD.new_zeros(rows, heads, capacity, width)
    if num_rows:
        new_RHCD[:num_rows, :, :positions] = old_RHCD
    return new_RHCD
