"""Several cards: one process for each, by torch's own launcher (torchrun), and one line of error.

What does *not* live here: what these processes do (`run.py`).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record

from services.die_with_parent import die_with_parent
from training.config import TrainConfig
from training.errors import TrainingError
from training.run import train

_OUR_ERROR = f"{TrainingError.__name__}: "


@dataclass(frozen=True, slots=True)
class Node:
    """This machine as one of several.

    Args:
        number: of this one, from 0.
        address, port: of node 0, the same on all.
    """

    num_nodes: int
    number: int
    address: str
    port: int


def launch(arguments: Sequence[str], num_cards: int, node: Node | None) -> None:
    """Run this command line once for each card of this machine, and wait.

    Raises:
        TrainingError: a process failed; with what it said.
        KeyboardInterrupt: a signal ended them all.
    """
    # What it has to say of a failure is a page for every process; this one does nothing else.
    logging.disable(logging.CRITICAL)
    where = ["--standalone"]
    if node is not None:
        where = ["--nnodes", str(node.num_nodes), "--node-rank", str(node.number)]
        where += ["--master-addr", node.address, "--master-port", str(node.port)]
    each = ["--nproc-per-node", str(num_cards), "-m", "training.command", *arguments]
    try:
        torchrun.run(torchrun.parse_args([*where, *each]))
    except ChildFailedError as error:
        raise TrainingError(_reason(error)) from error
    except SignalException as error:
        raise KeyboardInterrupt from error


def train_as_rank(config: TrainConfig, *, fresh: bool) -> None:
    """Train as one process of several; whoever started it hears of an error, and says it once."""
    die_with_parent()
    record(train_here)(config, fresh=fresh)


def train_here(config: TrainConfig, *, fresh: bool) -> Path:
    """Train on the card of this process.

    Raises:
        TrainingError: as `train` says, or memory is short all the same.
    """
    try:
        return train(config, fresh=fresh)
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"a card's memory ran out ({' '.join(str(error).split())[:120]}...); take smaller "
            "batch.rows or batch.row_tokens, or what `--plan` advises for a smaller card"
        ) from error


def _reason(error: ChildFailedError) -> str:
    """Return what the process said that knew most, or how the first one ended."""
    said = [_said(failure.message) for failure in error.failures.values()]
    ours = [text.removeprefix(_OUR_ERROR) for text in said if text.startswith(_OUR_ERROR)]
    if ours:
        return max(ours, key=len)
    # One that a signal ended is the cause; the others die of the connection that it took along.
    killed = {rank: each for rank, each in error.failures.items() if each.exitcode < 0}
    rank, failure = next(iter(killed.items()), error.get_first_failure())
    ended = _said(failure.message)
    return f"the process of card {rank} failed ({ended}); what it wrote stands above"


def _said(message: Any) -> str:
    """Return a message in one line, whether `record` wrote it or torch."""
    text = message.get("message", "") if isinstance(message, dict) else message
    return " ".join(str(text).split())
