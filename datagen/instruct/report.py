"""What a call came to: in `FILE.report.json`, and in a few lines for the user.

What does *not* live here: asking (`generating.py`).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from datagen.instruct.generating import Generation

VERSION = 1


def report_of(generation: Generation, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document; it holds no text of figures or conversations."""
    kept, readings = generation.kept, generation.selection.readings
    ids = generation.selection.ids
    failed = {name: kept.reasons[name] for name in ids if name not in kept and kept.tries[name]}
    unanswered = {
        name: why for name, why in generation.unanswered.items()
        if name not in kept and name not in failed
    }  # fmt: skip
    num_done = sum(name in kept for name in ids)
    totals = kept.totals
    return {
        "version": VERSION,
        "status": "complete" if num_done == len(ids) and not readings.problems else "incomplete",
        "run": dict(identity),
        "input": {
            "figures": readings.figures,
            "duplicates": readings.duplicates,
            "problems": dict(readings.problems),
            "first_problems": [asdict(problem) for problem in readings.listed],
        },
        "chosen": len(ids),
        "conversations": num_done,
        "failed": {"number": len(failed), "reasons": dict(Counter(failed.values()))},
        "failed_for_good": sum(not generation.is_open(name) for name in failed),
        "unanswered": {"number": len(unanswered), "reasons": dict(Counter(unanswered.values()))},
        "not_asked": len(ids) - num_done - len(failed) - len(unanswered),
        "why_stopped": generation.why_stopped,
        "prompt_tokens": totals.prompt_tokens,
        "completion_tokens": totals.completion_tokens,
        "cost": totals.cost,
    }


def sentences(report: Mapping[str, Any]) -> list[str]:
    """Return what a user is told of it."""
    read = report["input"]
    said = [
        f"{report['conversations']} of {report['chosen']} figures have a conversation; "
        f"{report['prompt_tokens']:,} tokens of prompts, {report['completion_tokens']:,} of "
        f"answers, cost {report['cost']:.2f}"
    ]
    if read["problems"]:
        said.append(f"records that cannot be used: {_counted(read['problems'])}")
    if read["duplicates"]:
        said.append(f"{read['duplicates']} records name a figure again, and were left out")
    if failed := report["failed"]["number"]:
        again = failed - report["failed_for_good"]
        then = f"the same command asks {again} of them again" if again else "none is asked again"
        why = _counted(report["failed"]["reasons"])
        said.append(f"{failed} figures gave no conversation: {why}; {then}")
    if unanswered := report["unanswered"]["number"]:
        why = _counted(report["unanswered"]["reasons"])
        said.append(
            f"{unanswered} figures have no reply: {why}; no try was counted, and the same command "
            "asks them again"
        )
    if report["why_stopped"]:
        said.append(f"{report['not_asked']} figures were not asked: {report['why_stopped']}")
    return said


def _counted(counts: Mapping[str, int]) -> str:
    most = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = "; ".join(f"{number} {what}" for what, number in most[:5])
    return shown + (f"; and {len(most) - 5} more kinds" if len(most) > 5 else "")
