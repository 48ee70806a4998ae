"""The shipped miniature is served and evaluated, by the commands that the README names."""

import json
from pathlib import Path

import httpx
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
        others = [*words[:-1], str(tmp_path / "others")]
        shared = galen("evaluate", "phantoms", *others, "--distributed", timeout_s=120)
        once_more = galen("evaluate", "phantoms", *others, "--distributed", timeout_s=60)
        listed = httpx.get(f"{url}/evaluations").json()["data"]
    runs = [str(tmp_path / name) for name in ("run", "others")]
    compared = galen("evaluate", "compare", *runs, "--json")

    assert done.returncode == 0, done.stderr
    receipt = json.loads((tmp_path / "run" / "receipt.json").read_text("utf-8"))
    assert receipt["status"] == "complete"
    assert receipt["metrics"]["standard-v1/closed accuracy"]["mean"] >= CLOSED
    assert receipt["metrics"]["standard-v1/open recall"]["mean"] >= OPEN
    facts = receipt["model_facts"]
    assert len(facts["checkpoint_fingerprint"]) == len(facts["template_sha256"]) == 64
    assert facts["image_recipe"]["shortest_edge_px"] > 0
    assert "torch" in receipt["model_as_told"]["provenance"]["versions"]
    (way,) = receipt["preprocessing"]["endpoint"]
    assert way.startswith("default@1/")
    assert receipt["preprocessing"]["here"] == {"as it is": receipt["num_items"]}
    assert "closed accuracy" in done.stdout
    assert "what it has answers to is not asked again" in again.stderr
    assert again.stdout == done.stdout

    # The job workers ask and score what the terminal did, with the same receipt.
    assert shared.returncode == 0, shared.stderr
    assert once_more.stdout == shared.stdout == done.stdout
    assert len(listed) == 1  # the same command goes on with it
    theirs = json.loads((tmp_path / "others" / "receipt.json").read_text("utf-8"))
    assert listed[0]["metrics"] == theirs["metrics"] == receipt["metrics"]
    assert theirs["preprocessing"] == receipt["preprocessing"]
    assert listed[0]["receipt_status"] == "complete"
    assert compared.returncode == 0, compared.stderr
    differences = json.loads(compared.stdout)["metrics"].values()
    assert {each["mean"] for each in differences} == {0.0}
