"""The shipped miniature is served and evaluated, by the commands that the README names."""

import json
from pathlib import Path

import pytest

from tests.end_to_end.launched import LaunchedUp, galen

NUM_SCANS = 60
SETS = ("shapes", "shapes-told", "shapes-test", "text-only", "alignment", "instruct", "vqa-train")
# Of about 200 questions of each kind; the card's figures less three standard errors.
CLOSED, OPEN = 0.80, 0.82


@pytest.mark.timeout(240)
def test_the_shipped_miniature_is_evaluated(tmp_path: Path, short_folder: Path):
    data = tmp_path / "phantoms"
    none = [word for name in (*SETS, "vqa-val") for word in (f"--{name}", "0")]
    drawn = galen(
        "data", "phantoms", "--out", str(data), "--seed", "77", "--vqa-test", str(NUM_SCANS), *none
    )
    assert drawn.returncode == 0, drawn.stderr

    with LaunchedUp(short_folder, "--port", "0", "--no-ask") as up:
        url = up.url()
        words = ["--data", str(data), "--url", url, "--out", str(tmp_path / "run")]
        done = galen("evaluate", "phantoms", *words, timeout_s=120)
        again = galen("evaluate", "phantoms", *words, timeout_s=60)

    assert done.returncode == 0, done.stderr
    receipt = json.loads((tmp_path / "run" / "receipt.json").read_text("utf-8"))
    assert receipt["status"] == "complete"
    assert receipt["metrics"]["standard-v1/closed accuracy"]["mean"] >= CLOSED
    assert receipt["metrics"]["standard-v1/open recall"]["mean"] >= OPEN
    facts = receipt["model_facts"]
    assert len(facts["checkpoint_fingerprint"]) == len(facts["template_sha256"]) == 64
    assert facts["image_recipe"]["shortest_edge_px"] > 0
    assert "torch" in receipt["model_as_told"]["provenance"]["versions"]
    assert "closed accuracy" in done.stdout
    assert "what it has answers to is not asked again" in again.stderr
    assert again.stdout == done.stdout
