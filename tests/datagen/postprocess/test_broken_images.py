"""An image that no decoder survives is a counted reason, and never the end of a run."""

import random
from pathlib import Path

import pytest
from PIL import Image

from datagen.postprocess.image_check import ImageCheck


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "JPEG", "GIF", "BMP", "WEBP", "DDS", "IM"])
def test_damaged_bytes_of_any_kind_are_a_reason(tmp_path: Path, kind: str):
    whole = tmp_path / "whole"
    Image.linear_gradient("L").convert("RGB").save(whole, kind)
    content = whole.read_bytes()
    drawn = random.Random(5)
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(150):
        damaged = bytearray(content)
        for _ in range(drawn.randint(1, 8)):
            damaged[drawn.randrange(min(len(damaged), 300))] = drawn.randrange(256)
        (folder / f"{number}.jpg").write_bytes(damaged)

    with ImageCheck(folder, tmp_path / "hashes") as check:
        reasons = {check.reason_against(f"{number}.jpg") for number in range(150)}

    assert reasons <= {None, "image_unreadable"}
    assert "image_unreadable" in reasons
