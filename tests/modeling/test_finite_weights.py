"""NaN and infinity are found in the files, in every type that can hold them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modeling.checkpoint_files import CheckpointError, CheckpointFiles, read_header
from modeling.finite_weights import refuse_non_finite

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
