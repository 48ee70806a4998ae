"""A model divided over two ranks trains as on one: gloo and CPU here, NCCL and cards elsewhere."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modeling.tiny import make_tiny_llava
from services.worker.settings import child_environment
from tests.end_to_end.launched import ROOT
from tests.training.sharded_run import CASES, NUM_STEPS

FP32_CASES = ["projector", "full", "tower", "lora", "copies"]
BF16_CASES = ["bf16", "bf16_projector"]
LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Runs:
    """What the program wrote, by the number of ranks."""

    folder: Path

    def result(self, num_ranks: int, case: str, rank: int = 0) -> dict[str, Any]:
        return json.loads((self.folder / str(num_ranks) / f"{case}-{rank}.json").read_text())

    def trained(self, num_ranks: int, case: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / str(num_ranks) / f"{case}.safetensors")

    def seen(self, num_ranks: int, case: str, what: str) -> list[float]:
        return [step[what] for step in self.result(num_ranks, case)["steps"]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Train every case on one rank, without torchrun, and on two."""
    folder = tmp_path_factory.mktemp("sharded")
    checkpoint = make_tiny_llava(folder / "tiny")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for num_ranks, start in ((1, []), (2, torchrun)):
        out = folder / str(num_ranks)
        out.mkdir()
        done = run(
            [sys.executable, *start, "-m", "tests.training.sharded_run", checkpoint, out, *CASES],
            cwd=ROOT,
            env=child_environment(OMP_NUM_THREADS="1"),
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
    return Runs(folder)


@pytest.mark.parametrize("case", [*FP32_CASES, *BF16_CASES])
def test_all_trained_parameters_are_divided_and_the_trainer_wraps_nothing(
    runs: Runs, case: str
) -> None:
    for rank in (0, 1):
        result = runs.result(2, case, rank)
        assert result["plain"] == []
        assert result["wrapped"] in ("FSDPLlavaForTraining", "FSDPPeftModel")
    assert runs.result(1, case)["wrapped"] in ("LlavaForTraining", "PeftModel")


@pytest.mark.parametrize("case", ["projector", "full", "lora"])
def test_each_rank_holds_half_of_all_but_a_frozen_tower(runs: Runs, case: str) -> None:
    for name, share in runs.result(2, case)["shares"].items():
        assert share == (1.0 if "vision_tower" in name else 0.5), name


def test_a_trained_tower_is_divided_though_its_rows_are_odd(runs: Runs) -> None:
    halves = [runs.result(2, "tower", rank)["shares"] for rank in (0, 1)]
    assert max(max(shares.values()) for shares in halves) == pytest.approx(9 / 17)
    for name, share in halves[0].items():
        assert share + halves[1][name] == pytest.approx(1.0)


def test_without_sharding_each_rank_holds_all(runs: Runs) -> None:
    assert set(runs.result(2, "copies")["shares"].values()) == {1.0}


@pytest.mark.parametrize("case", FP32_CASES)
def test_two_ranks_train_as_one_does(runs: Runs, case: str) -> None:
    for what in ("loss", "gradient_norm"):
        expected = runs.seen(1, case, what)
        assert len(expected) == NUM_STEPS
        assert runs.seen(2, case, what) == pytest.approx(expected, rel=1e-5)
    expected = runs.trained(1, case)
    found = runs.trained(2, case)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=2e-6, msg=name)


@pytest.mark.parametrize("case", BF16_CASES)
def test_two_ranks_train_in_bfloat16_nearly_as_one_does(runs: Runs, case: str) -> None:
    for what in ("loss", "gradient_norm"):
        assert runs.seen(2, case, what) == pytest.approx(runs.seen(1, case, what), rel=0.02)
    assert all(tensor.dtype == torch.float32 for tensor in runs.trained(2, case).values())


@pytest.mark.parametrize("case", [*FP32_CASES, *BF16_CASES])
def test_parts_of_weights_and_optimizer_come_back_as_they_were_written(
    runs: Runs, case: str
) -> None:
    for rank in (0, 1):
        assert runs.result(2, case, rank)["is_resumed_equal"]


def test_all_ranks_stop_where_the_gradient_of_one_is_not_finite(runs: Runs) -> None:
    for rank in (0, 1):
        result = runs.result(2, "nan", rank)
        assert "the gradient of step 1 is not finite" in result["error"]
        assert result["steps"] == []
