"""The marks that the tower learns by: of each patch, whether a spot lies in it."""

import json
from pathlib import Path
from typing import Any

from training.miniature.tower import ATTRIBUTES, PictureFacts


def write_facts(folder: Path, *spots: list[tuple[float, float]]) -> PictureFacts:
    stated: dict[str, Any] = dict.fromkeys(ATTRIBUTES, "x")
    lines = [
        json.dumps({**stated, "image": f"{name}.png", "centres_px": centres, "radius_px": 3.0})
        for name, centres in zip(("shapes-0", "shapes-1", "shapes_test-0"), spots, strict=True)
    ]
    (folder / "truth.jsonl").write_text("\n".join(lines), "utf-8")
    return PictureFacts(folder)


def test_patches_that_a_spot_lies_in_are_marked(tmp_path: Path):
    facts = write_facts(tmp_path, [(12.0, 33.0)], [], [(1.0, 1.0)])
    assert facts.images == ["shapes-0.png", "shapes-1.png"]  # none that questions are asked about

    marks = facts.marks(8, 8)

    assert marks.shape == (2, 64, 2)
    centres, touched = (set(marks[0, :, kind].nonzero().flatten().tolist()) for kind in (0, 1))
    assert centres == {4 * 8 + 1}  # row 4 down, column 1 across
    assert touched == {4 * 8 + 1, 3 * 8 + 1}  # three pixels around reach the row above
    assert not marks[1].any()
