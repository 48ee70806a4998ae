"""Apply a delta of about 0.6 GB in this process and print how much anonymous memory it took.

Base and delta are sparse files: zeros that take no disk.
"""

import json
import math
import re
import sys
import threading
from pathlib import Path

from modeling.checkpoints.conversions import apply_delta
from modeling.checkpoints.job import Job

HIDDEN, LAYERS, ROWS = 2048, 4, 8192
SHARD_BYTES = 200_000_000


def main() -> None:
    folder = Path(sys.argv[1])
    write_sparse(folder / "base", ROWS, has_projector=False)
    write_sparse(folder / "delta", ROWS + 4, has_projector=True)
    peak = PeakAnonymous()
    apply_delta(folder / "base", folder / "delta", Job(folder / "out", SHARD_BYTES, False))
    largest = (ROWS + 4) * HIDDEN * 2
    total = sum(file.stat().st_size for file in (folder / "out").glob("*.safetensors"))
    report = {
        "peak_anonymous_bytes": peak.stop(),
        "bound_bytes": 2 * largest + 512_000_000,
        "model_bytes": total,
    }
    print(json.dumps(report))  # noqa: T201 (a program)


def shapes(rows: int, *, has_projector: bool) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, HIDDEN)}
    for i in range(LAYERS):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            found[f"model.layers.{i}.self_attn.{name}.weight"] = (HIDDEN, HIDDEN)
        for name in ("gate_proj", "up_proj"):
            found[f"model.layers.{i}.mlp.{name}.weight"] = (4 * HIDDEN, HIDDEN)
        found[f"model.layers.{i}.mlp.down_proj.weight"] = (HIDDEN, 4 * HIDDEN)
    found |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (rows, HIDDEN)}
    if has_projector:
        found |= {
            "model.mm_projector.weight": (HIDDEN, 1024),
            "model.mm_projector.bias": (HIDDEN,),
        }
    return found


def write_sparse(folder: Path, rows: int, *, has_projector: bool) -> None:
    """Write three shards of float16 zeros."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    items = list(shapes(rows, has_projector=has_projector).items())
    size = math.ceil(len(items) / 3)
    for number, start in enumerate(range(0, len(items), size), start=1):
        header, at = {}, 0
        for name, shape in items[start : start + size]:
            end = at + 2 * math.prod(shape)
            header[name] = {"dtype": "F16", "shape": shape, "data_offsets": (at, end)}
            at = end
        text = json.dumps(header).encode()
        with (folder / f"model-{number:05d}-of-00003.safetensors").open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + at)


class PeakAnonymous:
    """Looks at this process's anonymous memory every few milliseconds."""

    def __init__(self) -> None:
        self._peak = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._stopped.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._stopped.wait(0.003):
            status = Path("/proc/self/status").read_text()
            match = re.search(r"RssAnon:\s+(\d+) kB", status)
            self._peak = max(self._peak, int(match[1]) * 1024 if match else 0)


if __name__ == "__main__":
    main()
