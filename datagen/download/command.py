"""`galen data download`: the images that a list names, out of their articles' archives.

    python -m datagen.download.command --help

What does *not* live here: all of it but options and words for the user.
"""

import contextlib
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datagen.errors import DataError
from modeling.tool_errors import run_tool, say

if TYPE_CHECKING:
    from datagen.download.manifest import Summary
    from datagen.download.running import Plan

_EXIT_MISUSE = 2
_EXIT_INCOMPLETE = 3
_MB = 1_000_000

app = typer.Typer(
    name="download",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def download_command(
    *,
    list_file: Annotated[
        Path, typer.Option("--list", metavar="FILE", help="llava_med_image_urls.jsonl, or alike.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make, or to go on with.")],
    config: Annotated[
        Path | None, typer.Option(metavar="YAML", help="Rewritten URLs and mirrors.")
    ] = None,
    rewrite: Annotated[
        list[str] | None,
        typer.Option(metavar="FROM=TO", help="URLs that begin with FROM begin with TO; repeat."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many images.")] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="So many images, drawn uniformly by --seed.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="Requests at once.")] = 16,
    per_host: Annotated[int, typer.Option(min=1, help="Requests at once to one host.")] = 8,
    retries: Annotated[int, typer.Option(min=0, help="Of what may pass, with back-off.")] = 4,
    backoff: Annotated[
        float, typer.Option(min=0.01, help="Seconds before the first retry; doubled each time.")
    ] = 1.0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also what was refused for good: 404 and alike.")
    ] = False,
    stall: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for a byte.")] = 60.0,
    article_time: Annotated[
        float, typer.Option(min=1, help="Seconds for one archive, at most.")
    ] = 3600.0,
    archive_mb: Annotated[
        int, typer.Option(min=1, help="MB of an archive, packed and unpacked, at most.")
    ] = 4000,
    member_mb: Annotated[int, typer.Option(min=1, help="MB of an image's file, at most.")] = 250,
    dead_after: Annotated[
        int, typer.Option(min=1, help="Failed connections in a row that make a host pause.")
    ] = 10,
    pause: Annotated[
        float, typer.Option(min=0.01, help="Seconds of the first pause; three, then it is dead.")
    ] = 30.0,
    contact: Annotated[
        str | None, typer.Option(help="Your mail address, for the servers' operators.")
    ] = None,
) -> None:
    """Fetch each article's archive once, and keep only the images that the list names.

    OUT gets images/PAIR_ID.jpg (LLaVA-Med's name, whatever the format), manifest.jsonl with the
    outcome of each, problems.jsonl with lines that are none, and summary.json. Stopped at any
    moment, the same command goes on.

    Exit code 0: done; 1: an error; 2: misuse, or OUT holds another list; 3: images are missing or
    failed, or lines are broken; 130: stopped by Ctrl-C or SIGTERM.

    For example:

    galen data download --list llava_med_image_urls.jsonl --out ./pmc --contact me@example.org

    galen data download --list urls.jsonl --out ./pmc --sample 1000 --seed 7

    galen data download --list urls.jsonl --out ./pmc --rewrite https://old.example/=https://new.example/
    """
    from datagen.download.config import read_places
    from datagen.download.extracting import Limits
    from datagen.download.fetching import Times
    from datagen.download.folder import OtherListError
    from datagen.download.running import Plan
    from datagen.download.turns import Patience

    if contact is not None and not (contact.isascii() and contact.isprintable()):
        raise DataError("--contact must be plain ASCII, since it stands in a header")
    plan = Plan(
        places=read_places(config, rewrite or []),
        at_once=concurrency,
        per_host=per_host,
        limits=Limits(archive_mb * _MB, member_mb * _MB),
        times=Times(stall, article_time),
        patience=Patience(retries, backoff, dead_after, pause),
        contact=contact,
    )
    try:
        summary = _run(list_file, out, plan, (limit, sample, seed), retry_failed=retry_failed)
    except OtherListError as error:
        say(str(error))
        raise typer.Exit(_EXIT_MISUSE) from None
    _tell(summary, out)
    if not summary.is_complete:
        raise typer.Exit(_EXIT_INCOMPLETE)


def _run(
    list_file: Path,
    out: Path,
    plan: "Plan",
    chosen: tuple[int | None, int | None, int],
    *,
    retry_failed: bool,
) -> "Summary":
    import warnings

    from datagen.download.folder import open_folder
    from datagen.download.manifest import write_reports
    from datagen.download.progress import DownloadProgress
    from datagen.download.running import download

    # Pillow's remarks on odd files: what cannot be decoded is told, what can be is fine.
    warnings.filterwarnings("ignore", module="PIL")
    with _ended_like_ctrl_c(), open_folder(out, list_file) as index:
        num_selected = index.select(*chosen)
        if gone := index.open_again(out, retry_failed=retry_failed):
            say(f"{gone} images are not in the folder any more, and are fetched again")
        waiting = index.num_waiting()
        if waiting < num_selected:
            say(f"{num_selected - waiting} of {num_selected} images are settled already")
        facts = {"list": list_file.name, "list_sha256": index.list_sha256}
        try:
            with DownloadProgress(waiting) as progress:
                download(index, out, plan, progress, progress.say)
        finally:  # at Ctrl-C, at SIGTERM and at a full disk, too
            summary = write_reports(index, out, facts)
        return summary


@contextlib.contextmanager
def _ended_like_ctrl_c() -> Generator[None]:
    """Let SIGTERM, with which schedulers and containers end a program, do what Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(summary: "Summary", out: Path) -> None:
    print(f"{out}: {summary.counts.done} images, {summary.counts.saved_bytes / 1e6:.1f} MB")
    for reason, num in summary.reasons.items():
        print(f"  {num} without a file: {reason}")
    for kind, num in summary.problems.items():
        print(f"  {num} lines: {kind}")
    if summary.reasons or summary.problems:
        print(f"  each is listed in {out / 'manifest.jsonl'} or {out / 'problems.jsonl'}")


def main(arguments: list[str]) -> None:
    """Run a command line and end the process."""
    run_tool(
        app,
        "galen data download",
        arguments,
        mistakes=(DataError,),
        extra="datagen",
        when_stopped="the same command goes on",
    )


if __name__ == "__main__":
    main(sys.argv[1:])
