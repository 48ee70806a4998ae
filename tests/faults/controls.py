"""Negative controls: a small stack with one protection switched off."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.stack import Stack


def sabotaged_stack(
    folder: Path,
    *,
    gateway: Sequence[str] = (),
    worker: Sequence[str] = (),
    num_workers: int = 2,
    settings: Mapping[str, str] | None = None,
) -> Stack:
    """Return a stack, not started, whose programs lack what these switches name."""
    return Stack(
        folder,
        num_workers=num_workers,
        gateway_module=(
            ("tests.support.sabotage.gateway", *gateway) if gateway else ("services.gateway.main",)
        ),
        worker_module=(
            ("tests.support.sabotage.worker", *worker) if worker else ("services.worker.main",)
        ),
        settings=settings or {},
    )
