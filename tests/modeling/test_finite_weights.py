"""NaN and infinity are found in the files, in every type that can hold them."""

import time
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modeling.checkpoint_files import CheckpointError, CheckpointFiles, TensorInfo, read_header
from modeling.finite_weights import MOST_WHOLE_BYTES, pieces_by_spread, refuse_non_finite

NAN, INF = float("nan"), float("inf")
FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2]


def saved(path: Path, **tensors: torch.Tensor) -> CheckpointFiles:
    file = path / "model.safetensors"
    save_file(tensors, file)
    return CheckpointFiles(path, {}, read_header(file))


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_weight_is_named(dtype: torch.dtype, bad: float, tmp_path: Path) -> None:
    weights = torch.zeros(7, 5)
    weights[6, 4] = bad
    files = saved(tmp_path, good=torch.zeros(3, dtype=dtype), wrong=weights.to(dtype))
    with pytest.raises(CheckpointError, match="'wrong' holds NaN or infinity"):
        refuse_non_finite(files)


def test_the_one_nan_of_e4m3_is_found(tmp_path: Path) -> None:
    files = saved(tmp_path, wrong=torch.tensor([1.0, NAN]).to(torch.float8_e4m3fn))
    with pytest.raises(CheckpointError, match="'wrong' holds NaN"):
        refuse_non_finite(files)


def test_the_largest_and_the_smallest_numbers_pass(tmp_path: Path) -> None:
    kinds = [*FLOATS, torch.float8_e4m3fn]
    extremes = {
        str(dtype): torch.tensor(
            [torch.finfo(dtype).max, torch.finfo(dtype).min, torch.finfo(dtype).tiny, -0.0],
            dtype=torch.float64,
        ).to(dtype)
        for dtype in kinds
    }
    counts = torch.tensor([-1, 2**63 - 1])  # all bits set: no float
    refuse_non_finite(saved(tmp_path, counts=counts, **extremes))


def test_a_large_weight_is_read_to_its_end(tmp_path: Path) -> None:
    weights = torch.zeros((16 << 20) // 4 + 3)  # more than one piece
    weights[-1] = NAN
    with pytest.raises(CheckpointError, match="'wrong' holds NaN"):
        refuse_non_finite(saved(tmp_path, wrong=weights))


def of_zeros(path: Path, num_bytes: int, name: str = "large") -> CheckpointFiles:
    """A weight of float32 in a file with a hole, which costs no disk."""
    file = path / f"{name}.bin"
    with file.open("wb") as stream:
        stream.truncate(num_bytes)
    return CheckpointFiles(path, {}, {name: TensorInfo("F32", (), num_bytes, file, 0)})


def spoil(files: CheckpointFiles, name: str, at: int) -> None:
    info = files.tensors[name]
    with info.file.open("r+b") as stream:
        stream.seek(info.start + at)
        stream.write(torch.tensor([NAN]).numpy().tobytes())


LARGE = MOST_WHOLE_BYTES + 4
MIDDLE = LARGE // 2 // 4 * 4


@pytest.mark.parametrize("at", [0, MIDDLE, LARGE - 4], ids=["beginning", "middle", "end"])
def test_a_few_blocks_of_each_weight_of_a_large_checkpoint_are_read_first(
    tmp_path: Path, at: int
) -> None:
    files = of_zeros(tmp_path, LARGE)
    spoil(files, "large", at)
    with pytest.raises(CheckpointError, match="'large' holds NaN"):
        refuse_non_finite(files, budget_s=60.0)


def test_a_large_checkpoint_is_read_for_as_long_as_allowed(tmp_path: Path) -> None:
    files = of_zeros(tmp_path, 64 << 30)
    started = time.monotonic()
    refuse_non_finite(files, budget_s=0.1)
    assert time.monotonic() - started < 5.0  # whole, it takes half a minute


def test_a_small_checkpoint_is_read_whole_whatever_the_time_allowed(tmp_path: Path) -> None:
    files = of_zeros(tmp_path, 64 << 20)
    spoil(files, "large", 5 << 20)
    refuse_non_finite(files, most_whole_bytes=0, budget_s=0.0)
    with pytest.raises(CheckpointError, match="'large' holds NaN"):
        refuse_non_finite(files, budget_s=0.0)


def test_the_order_touches_each_weight_before_it_reads_any_whole(tmp_path: Path) -> None:
    sizes = {"a": 40 << 20, "b": 4, "c": (1 << 20) + 4, "none": 0}
    tensors = {name: of_zeros(tmp_path, size, name).tensors[name] for name, size in sizes.items()}
    tensors["counts"] = TensorInfo("I64", (), 8, tmp_path / "a.bin", 0)
    pieces = list(pieces_by_spread(CheckpointFiles(tmp_path, {}, tensors)))

    assert {piece.name for piece in pieces[:3]} == {"a", "b", "c"}
    starts: dict[str, list[int]] = defaultdict(list)
    for piece in pieces[:7]:
        starts[piece.name].append(piece.start)
        assert piece.start % 4 == 0
    block = 16 << 10
    for name in ("a", "c"):
        first, middle, last = starts[name]
        assert (first, last) == (0, sizes[name] - block)
        assert abs(middle - last / 2) < 4
    rest = pieces[7:]
    assert sum(piece.num_bytes for piece in rest) == sum(sizes.values())
