"""The command line of post-processing: `galen datagen postprocess` runs this module.

    python -m datagen.postprocess.command --help

What does *not* live here: the rules (`standard_v1.py`, `legacy_v1.py`) and files (`running.py`).
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from datagen.errors import DataError
from datagen.postprocess.tally import Tally
from modeling.tool_errors import run_tool, say

_EXIT_BAD_INPUT = 3
_DISTANCE_BITS = 4

app = typer.Typer(
    name="postprocess",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def postprocess_command(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT...", help="JSON lines or JSON.", show_default=False),
    ],
    *,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Output: JSON lines if it ends in .jsonl, else a JSON list."
        ),
    ],
    profile: Annotated[
        Literal["standard-v1", "legacy-v1"],
        typer.Option(help="standard-v1: our rules; legacy-v1: those of LLaVA-Med's tool."),
    ] = "standard-v1",
    seed: Annotated[
        int, typer.Option(min=0, help="Decides whether images stand before or after questions.")
    ] = 0,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the images; what has none is left out."),
    ] = None,
    benchmark: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR|FILE",
            help="What must not be trained on: a folder of `galen data prepare`, or a file of "
            "questions; may be given several times.",
        ),
    ] = None,
    near_duplicates: Annotated[
        bool, typer.Option(help="Leave out what nearly repeats an earlier item's words.")
    ] = True,
    likeness: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="From which on words are nearly the same.")
    ] = 0.85,
    image_distance: Annotated[
        int,
        typer.Option(min=0, max=16, help="Bits of 64 by which an image's copies may differ."),
    ] = _DISTANCE_BITS,
    force: Annotated[bool, typer.Option("--force", help="Replace an output that exists.")] = False,
) -> None:
    """Clean conversations that a teacher wrote, and write them as training reads them.

    Beside FILE: FILE.manifest.json counts by rule, FILE.rejects.jsonl lists what was left out and
    why. The same inputs, options and seed give the same bytes; what was stopped is started again.

    Exit codes: 0 done; 1 it could not be done; 2 misuse; 3 done, but lines could not be read or
    were no samples; 130 stopped.

    For example:

    galen datagen postprocess generated.jsonl --out train.json

    galen datagen postprocess generated.jsonl --out train.json --images images --benchmark vqa-rad
    """
    from datagen.postprocess.benchmarks import Benchmarks
    from datagen.postprocess.legacy_v1 import LegacyV1
    from datagen.postprocess.progress import ProgressBar
    from datagen.postprocess.running import Plan, postprocess
    from datagen.postprocess.standard_v1 import StandardV1

    _refuse_output(out, inputs, force=force)
    is_standard = profile == "standard-v1"
    if not is_standard and (images or benchmark):
        raise typer.BadParameter("legacy-v1 looks at no images and no benchmarks; leave them out")
    benchmarks = Benchmarks(benchmark or [])
    has_near = near_duplicates and is_standard
    asks = benchmarks.questions.has if benchmark else None
    described: dict[str, Any] = {
        "seed": seed,
        "near_duplicates_from": likeness if has_near else None,
        "images_checked": images is not None,
        "image_distance_bits": image_distance if images else None,
        "benchmarks": benchmarks.described,
    }
    if benchmarks.images and images is None:
        say(
            f"the {len(benchmarks.images)} images of the benchmarks are not looked for: that needs "
            "--images"
        )
    with ProgressBar() as watch, ExitStack() as stack:
        reason_against_image = None
        if images is not None:
            from datagen.postprocess.image_check import ImageCheck

            hashes = out.with_name(f"{out.name}.image-hashes.sqlite3")
            check = stack.enter_context(ImageCheck(images, hashes, image_distance))
            watch.begin("hashing benchmark images", len(benchmarks.images))
            check.forbid(benchmarks.images, watch.advance)
            reason_against_image = check.reason_against
        plan = Plan(
            inputs=inputs,
            out=out,
            profile=StandardV1(seed, asks) if is_standard else LegacyV1(seed),
            has_unique_ids=is_standard,
            likeness=likeness if has_near else None,
            reason_against_image=reason_against_image,
            described=described,
        )
        tally = postprocess(plan, watch)
    _show(tally, out)
    if tally.has_bad_input:
        raise typer.Exit(_EXIT_BAD_INPUT)


def _refuse_output(out: Path, inputs: Sequence[Path], *, force: bool) -> None:
    if any(out.resolve() == path.resolve() for path in inputs):
        raise DataError(f"{out} is an input; choose another --out")
    if out.exists() and not force:
        raise DataError(f"{out} exists; choose another --out, or replace it with --force")
    if not out.parent.is_dir():
        raise DataError(f"{out.parent} is no folder; make it first")


def _show(tally: Tally, out: Path) -> None:
    table = Table("what", "rule", "count", box=None)
    for what, counts in (
        ("line unreadable", tally.unreadable),
        ("sample left out", tally.rejected),
        ("turn left out", tally.turns_dropped),
        ("turn changed", tally.changed),
    ):
        for rule, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
            table.add_row(what, rule, f"{count:,}")
    if table.row_count:
        Console(stderr=True, highlight=False).print(table)
    typer.echo(
        f"{out}: {tally.num_written:,} of {tally.num_records:,} samples, "
        f"{tally.num_turns_written:,} turns; {out}.rejects.jsonl says what was left out"
    )


def main(arguments: Sequence[str]) -> None:
    """Run a command line and end the process."""
    stopped = "nothing was written; start it again"
    run_tool(
        app,
        "galen datagen postprocess",
        arguments,
        mistakes=(DataError,),
        extra="datagen",
        when_stopped=stopped,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
