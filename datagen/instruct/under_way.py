"""The batches of a run that are under way, as `FILE.batches.json` notes them.

What does *not* live here: making and collecting them (`batching.py`).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from datagen.errors import DataError
from modeling.durable_files import write_json


@dataclass(slots=True)
class Begun:
    """A batch.

    Args:
        most_cost: what it may come to.
        batch_id: empty: it may not be there yet.
        url: of its endpoint; empty: the run's only one.
    """

    input_file_id: str
    num_figures: int
    most_cost: float
    batch_id: str = ""
    url: str = ""


def read_begun(file: Path) -> list[Begun]:
    """Return what is under way; raises DataError where the file cannot be read."""
    try:
        return [Begun(**each) for each in json.loads(file.read_text("utf-8"))]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{file} is damaged; it named batches that may be paid for, which the endpoint still "
            "lists: write them into it again, or, to give them up, remove this one file; what is "
            "kept of the run stays"
        ) from error


def write_begun(file: Path, begun: Sequence[Begun]) -> None:
    """Note what is under way; it is on the disk when this returns."""
    if begun:
        write_json(file, [asdict(each) for each in begun])
    else:
        file.unlink(missing_ok=True)
