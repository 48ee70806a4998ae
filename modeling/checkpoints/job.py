"""What every conversion is told; no torch."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Job:
    """Where a result goes.

    Args:
        out: the folder that is made.
        shard_bytes: largest file of weights.
        is_dry_run: say what would be done, write nothing.
    """

    out: Path
    shard_bytes: int
    is_dry_run: bool
