"""The miniature's report: tables, plots of the losses, examples of answers; in Markdown.

What does *not* live here: the numbers (`curriculum.py`).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from training.miniature.curriculum import STAGES

_SMOOTHED = 10  # steps
_EXAMPLES = 12
_PLOT = "miniature-losses.svg"


def write_report(runs: Sequence[Path], questions: str, out: Path) -> None:
    """Write the report and its plot.

    Args:
        runs: folders of `run_curriculum`, one for each seed.
        questions: which file of VQA was asked.
        out: the Markdown file; what it holds between its two marks is replaced.
    """
    lines = [
        *tables(runs, questions),
        "",
        f"![Loss of each stage]({_PLOT})",
        "",
        *_examples(runs[0], questions),
    ]
    before, after = _around(out)
    out.write_text("\n".join([before, *lines, after]), "utf-8")
    plot_losses(runs, out.parent / _PLOT)


def tables(runs: Sequence[Path], questions: str) -> list[str]:
    """Return lines of Markdown: answers by stage and by type of question, and the time it took."""
    found = [json.loads((run / "results.json").read_text("utf-8")) for run in runs]
    parts = (stage_table(found, questions), kind_table(found, questions), _times(found))
    return [line for part in parts for line in (*part, "")][:-1]


def stage_table(found: Sequence[Mapping[str, Any]], questions: str) -> list[str]:
    """Return lines of Markdown: what was answered after each stage, over all seeds."""
    lines = ["| after | closed accuracy % | open recall % |", "|---|---|---|"]
    for stage in STAGES:
        for suffix in ("", " on noise"):
            key = f"{stage.name}{suffix} {questions}"
            scores = [each["scores"][key] for each in found if key in each["scores"]]
            if scores:
                closed, opened = (_spread(s[kind] for s in scores) for kind in ("closed", "open"))
                lines.append(f"| {stage.name}{suffix} | {closed} | {opened} |")
    return lines


def kind_table(found: Sequence[Mapping[str, Any]], questions: str) -> list[str]:
    """Return lines of Markdown: what was answered at the end, by type of question."""
    last = STAGES[-1].name
    after = [each["scores"][f"{last} {questions}"]["by_kind"] for each in found]
    noise = [each["scores"][f"{last} on noise {questions}"]["by_kind"] for each in found]
    lines = ["| type of question | n | % | on noise % |", "|---|---|---|---|"]
    for kind in after[0]:
        seen, blind = (_spread(each[kind][0] for each in every) for every in (after, noise))
        lines.append(f"| {kind} | {after[0][kind][1]} | {seen} | {blind} |")
    return lines


def plot_losses(runs: Sequence[Path], out: Path) -> None:
    """Draw the loss of each stage, a line for each seed, smoothed over ten steps."""
    import matplotlib as mpl  # noqa: PLC0415 - for this alone

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "galen"  # the same plot for the same numbers
    from matplotlib import pyplot  # noqa: PLC0415

    names = ["tower", *(stage.name for stage in STAGES)]
    figure, axes = pyplot.subplots(1, len(names), figsize=(14, 3), layout="constrained")
    for name, axis in zip(names, axes, strict=True):
        for number, run in enumerate(runs):
            losses = _losses(run, name)
            axis.plot(range(1, len(losses) + 1), _smooth(losses), label=f"seed {number}")
        axis.set(title=name, xlabel="step", yscale="log")
    axes[0].set_ylabel("loss")
    axes[0].legend()
    figure.savefig(out, metadata={"Date": None})
    pyplot.close(figure)


def _times(found: Sequence[Mapping[str, Any]]) -> list[str]:
    parts = ["data", "tower", *(stage.name for stage in STAGES)]
    lines = [
        f"| seed | {' | '.join(parts)} | questions | all, min |",
        "|---" * (len(parts) + 3) + "|",
    ]
    for number, each in enumerate(found):
        seconds = each["seconds"]
        asked = sum(value for key, value in seconds.items() if key not in parts)
        row = [f"{seconds.get(part, 0):.0f}" for part in parts]
        whole = sum(seconds.values()) / 60
        lines.append(f"| {number} | {' | '.join(row)} | {asked:.0f} | {whole:.1f} |")
    return lines


def _examples(run: Path, questions: str) -> list[str]:
    name = f"answers-{STAGES[-1].name}-{questions.replace('/', '-')}l"
    answers = [json.loads(line) for line in (run / name).read_text("utf-8").splitlines()]
    lines = ["| image | question | truth | answer |", "|---|---|---|---|"]
    for answer in answers[:: max(1, len(answers) // _EXAMPLES)][:_EXAMPLES]:
        cells = (answer[key] for key in ("image", "question", "reference", "said"))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _losses(run: Path, name: str) -> list[float]:
    log = run / "tower.jsonl" if name == "tower" else run / f"{name}.training" / "log.jsonl"
    return [json.loads(line)["loss"] for line in log.read_text("utf-8").splitlines()]


def _smooth(losses: Sequence[float]) -> list[float]:
    return [mean(losses[max(0, at - _SMOOTHED + 1) : at + 1]) for at in range(len(losses))]


def _spread(values: Iterable[float]) -> str:
    found = [100 * value for value in values]
    return f"{mean(found):.1f} ± {stdev(found):.1f}" if len(found) > 1 else f"{found[0]:.1f}"


def _around(out: Path) -> tuple[str, str]:
    text = out.read_text("utf-8") if out.is_file() else f"# The miniature\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}", f"{END}{rest.partition(END)[2]}"


BEGIN = "<!-- measured: begin -->"
"""What `make miniature` measured stands behind this, in the report."""
END = "<!-- measured: end -->"
