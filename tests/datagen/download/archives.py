"""Archives as PubMed Central makes them, and as nobody should; lists of their images."""

import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image


def picture(kind: str = "JPEG", size: tuple[int, int] = (40, 30), shade: int = 90) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, (shade, 20, 200)).save(content, kind)
    return content.getvalue()


def tar_of(members: Mapping[str, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=kind) as archive:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return content.getvalue()


def archive_of(members: Mapping[str, bytes]) -> bytes:
    return gzip.compress(tar_of(members), 1)


def line(url: str, number: int = 1, figure: str = "a") -> dict[str, Any]:
    return {
        "pair_id": f"{number}_{figure}",
        "pmc_tar_url": f"{url}/PMC{number}.tar.gz",
        "image_file_path": f"PMC{number}/{figure}.jpg",
    }


def write_list(path: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in lines), "utf-8")
    return path


def manifest(out: Path) -> dict[str, dict[str, Any]]:
    lines = (out / "manifest.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(each) for each in lines]
    assert len({each["pair_id"] for each in found}) == len(found)
    return {each["pair_id"]: each for each in found}
