"""Checkpoints of real sizes of which the disk holds nothing but headers."""

import json
import math
import shutil
from pathlib import Path

from modeling.model_shape import preset_config
from modeling.tensor_shapes import expected_tensors, with_defaults


def sparse_checkpoint(preset: str, like: Path, out: Path) -> Path:
    """A checkpoint of a preset's sizes, bfloat16, all zeros.

    Args:
        like: a checkpoint whose tokenizer and processor are taken.
    """
    shutil.copytree(like, out)
    config = preset_config(preset)
    (out / "config.json").write_text(json.dumps(config))
    header: dict[str, object] = {}
    end = 0
    for name, shape in expected_tensors(with_defaults(config)).items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    with (out / "model.safetensors").open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        stream.truncate(8 + len(encoded) + end)
    return out
