"""How fast post-processing is on one core, and what memory it takes: `galen datagen postprocess`.

    python -m benchmarks.postprocess --samples 50000 --samples 500000

Samples are conversations of three rounds and about 170 words in the form that generate writes, out
of a vocabulary with the words that rules look for; one in fifty is nearly another's copy. Each size
runs in a process of its own, pinned to one core. What does *not* live here: the tool.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

_TOPICS = (
    "opacity", "lesion", "mass", "nodule", "effusion", "fracture", "contrast", "signal", "tissue",
    "cells", "nuclei", "staining", "lobe", "margin", "border", "density", "artery", "ventricle",
    "enhancement", "cortex", "liver", "lung", "kidney", "bone", "muscle", "vessel", "gland",
)  # fmt: skip
_LINKS = (
    "the", "a", "of", "in", "with", "and", "is", "are", "shows", "appears", "left", "right",
    "upper", "lower", "small", "large", "bright", "dark", "several", "adjacent", "near", "region",
    "visible", "irregular", "smooth", "dense", "pattern", "area", "which", "suggests", "likely",
    "image", "scan", "normal", "that", "can", "be", "seen", "not", "T2", "H&E", "MRI",
)  # fmt: skip
_SYLLABLES = ("car", "dio", "neo", "plas", "tic", "hep", "ato", "ren", "al", "pul", "mon", "ary")
_LEADS = ("According to the image description, ", "Yes, based on the caption provided, ")
_SPOILT = ("I'm sorry, but I cannot see the image.", "You should take 20 mg of it.")


def make_samples(path: Path, count: int, seed: int = 7) -> None:
    """Write samples as generate does."""
    draw = random.Random(seed)
    rare = ["".join(draw.choices(_SYLLABLES, k=3)) for _ in range(4000)]
    words = [*_TOPICS * 8, *_LINKS * 12, *rare]
    before = ""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            result = _dialogue(draw, words)
            if before and draw.random() < 0.02:
                result = before.replace(" visible ", " seen ", 1)
            before = result
            sample = {
                "pair_id": f"{10_000_000 + number}_F{number % 5}",
                "pmid": str(10_000_000 + number),
                "fig_id": f"F{number % 5}",
                "fig_label": f"Figure {number % 5}",
                "fig_caption": _sentence(draw, words, 45),
                "in_text_mention": [{"tokens": _sentence(draw, words, 25)}],
                "domain": {
                    name: name == "mri"
                    for name in ("chest_xray", "mri", "histology", "gross", "ct_scan")
                },
                "licence": draw.choice(("CC BY", "CC0", "CC BY-NC")),
                "result": result,
                "generation": {"model": "teacher", "prompt": "0123456789abcdef"},
            }
            file.write(json.dumps(sample) + "\n")


def _dialogue(draw: random.Random, words: list[str]) -> str:
    blocks: list[str] = []
    for _ in range(3):
        answer = _sentence(draw, words, 44)
        chance = draw.random()
        if chance < 0.05:
            answer = draw.choice(_LEADS) + answer
        elif chance < 0.07:
            answer = draw.choice(_SPOILT)
        blocks += (f"User: {_sentence(draw, words, 12)[:-1]}?", f"Assistant: {answer}")
    return "\n\n".join(blocks)


def _sentence(draw: random.Random, words: list[str], count: int) -> str:
    return " ".join(draw.choices(words, k=count)).capitalize() + "."


def run_once(source: Path, out: Path) -> dict[str, float]:
    """Run the tool in a process on one core; returns its seconds and its memory."""
    code = (
        "import os, resource, sys, time\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from datagen.postprocess.command import main\n"
        "began_s = time.monotonic()\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n"
        "    used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "    print('MEASURED', time.monotonic() - began_s, used.ru_utime + used.ru_stime,"
        " used.ru_maxrss / 1024)\n"
    )
    command = [sys.executable, "-c", code, str(source), "--out", str(out), "--force"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    line = next(line for line in done.stdout.splitlines() if line.startswith("MEASURED"))
    wall_s, cpu_s, rss_mb = (float(word) for word in line.split()[1:])
    return {"wall_s": wall_s, "cpu_s": cpu_s, "rss_mb": rss_mb}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for count in chosen.samples or [50_000, 500_000]:
            source = Path(folder) / f"generated-{count}.jsonl"
            make_samples(source, count)
            runs = [run_once(source, Path(folder) / "out.json") for _ in range(chosen.rounds)]
            wall_s = statistics.median(run["wall_s"] for run in runs)
            cpu_s = statistics.median(run["cpu_s"] for run in runs)
            rss_mb = max(run["rss_mb"] for run in runs)
            print(
                f"| {count:,} | {source.stat().st_size / 2**20:,.0f} | {count / wall_s:,.0f} | "
                f"{count / cpu_s:,.0f} | {rss_mb:,.0f} |",
                flush=True,
            )
            source.unlink()


if __name__ == "__main__":
    main()
