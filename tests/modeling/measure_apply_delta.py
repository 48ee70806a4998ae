"""Apply a delta of about 0.6 GB in this process and print how much anonymous memory it took.

Base and delta are pickled shards, as LLaVA-Med v1.0 was published, of numbers other than zero. A
third of the base is in float32, which is made float16 on the way.
"""

import json
import math
import sys
from pathlib import Path

import torch

from modeling.checkpoints.conversions import apply_delta
from modeling.checkpoints.job import Job
from modeling.checkpoints.tensor_source import PICKLE_INDEX

ROOT = Path(__file__).parents[2]

HIDDEN, LAYERS, ROWS = 2048, 4, 8192
SHARD_BYTES = 200_000_000


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from tests.support.anonymous_memory import PeakAnonymous  # noqa: PLC0415 (run by path)

    folder = Path(sys.argv[1])
    write_pickles(folder / "base", ROWS, has_projector=False)
    write_pickles(folder / "delta", ROWS + 4, has_projector=True)
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


def write_pickles(folder: Path, rows: int, *, has_projector: bool) -> None:
    """Write three shards; in the first of a base the numbers are float32."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    items = list(shapes(rows, has_projector=has_projector).items())
    size = math.ceil(len(items) / 3)
    weight_map: dict[str, str] = {}
    for number, start in enumerate(range(0, len(items), size), start=1):
        is_wide = number == 1 and not has_projector
        dtype = torch.float32 if is_wide else torch.float16
        file = f"pytorch_model-{number:05d}-of-00003.bin"
        part = {name: numbers(shape, dtype) for name, shape in items[start : start + size]}
        if has_projector and "model.norm.weight" in part:
            part["model.norm.weight"] = part["model.norm.weight"] / 1000  # of a delta
        torch.save(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / PICKLE_INDEX).write_text(json.dumps({"weight_map": weight_map}))


def numbers(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    count = math.prod(shape)
    period = torch.linspace(-1, 1, 4097).to(dtype)  # no page is like the one before
    return period.repeat(-(-count // len(period)))[:count].reshape(shape)


if __name__ == "__main__":
    main()
