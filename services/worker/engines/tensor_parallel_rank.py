"""A rank other than 0: loads its part of the model and makes the calls that come through stdin.

    python -m services.worker.engines.tensor_parallel_rank --rank 1 ... CHECKPOINT

Started by `tensor_parallel.RankGroup`, never by hand. It ends when its pipe is closed, when rank 0
dies, and at any failure of its own.
"""

import argparse
import os
import sys
from pathlib import Path

import structlog
import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # missing in its __all__

from services.die_with_parent import die_with_parent
from services.telemetry import configure_logging
from services.worker.engines.base import (
    EngineStartError,
    end_process,
)
from services.worker.engines.checkpoint import load_model
from services.worker.engines.model_runner import ModelRunner, Prefilled
from services.worker.engines.tensor_parallel import HOST, Call, join_group, read_call
from services.worker.exit_codes import EXIT_CANNOT_START, EXIT_ENGINE_BROKEN
from services.worker.load_options import LoadOptions
from services.worker.settings import WorkerSettings

log = structlog.get_logger(__name__)


def main() -> None:
    """Serve until the pipe ends."""
    parser = argparse.ArgumentParser(prog="services.worker.engines.tensor_parallel_rank")
    for name in ("parent-pid", "rank", "ranks", "port", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("device", "dtype", "attention"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("checkpoint", type=Path)
    chosen = parser.parse_args()
    die_with_parent(chosen.parent_pid)
    settings = WorkerSettings()
    configure_logging("worker", settings.log_format, settings.log_level)
    torch.set_num_threads(chosen.threads)
    try:
        store = TCPStore(HOST, chosen.port, chosen.ranks)
        join_group(chosen.rank, chosen.ranks, store, chosen.device)
        options = LoadOptions(
            dtype=chosen.dtype,
            device=chosen.device,
            attention=chosen.attention,
            tensor_parallel_size=chosen.ranks,
            memory_fraction=settings.gpu_memory_fraction,
        )
        _Rank(chosen.checkpoint, options).serve()
    except EngineStartError as error:
        log.error("engine.start.refused", cause=str(error), rank=chosen.rank)  # noqa: TRY400
        os._exit(EXIT_CANNOT_START)
    except Exception as error:  # noqa: BLE001 (any failure ends all ranks)
        end_process(error)
    os._exit(0)  # a group that rank 0 has left is not to be waited for


class _Rank:
    def __init__(self, checkpoint: Path, options: LoadOptions) -> None:
        self._model = load_model(checkpoint, options)
        self._runner: ModelRunner
        self._prefilled: Prefilled

    def serve(self) -> None:
        while (frame := read_call(sys.stdin.buffer)) is not None:
            self._make(*frame)

    def _make(self, call: Call, tensors: dict[str, torch.Tensor]) -> None:
        match call.name:
            case "decode":
                self._runner.decode(call.numbers)
            case "prefill":
                self._prefilled = self._runner.prefill({**call.options, **tensors})
            case "add_row":
                self._runner.add_row(self._prefilled)
            case "remove_row":
                self._runner.remove_row(*call.numbers)
            case "clear":
                self._runner.clear()
            case "build":
                self._runner = ModelRunner(self._model, *call.numbers)
            case _:
                log.critical("engine.rank.call_unknown", call=call.name)
                sys.exit(EXIT_ENGINE_BROKEN)


if __name__ == "__main__":
    main()
