"""Fuzzes one of the front doors with Atheris (libFuzzer): `python -m tests.fuzzing --help`."""

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import atheris
import platformdirs
import typer

with atheris.instrument_imports(  # pyright: ignore[reportAttributeAccessIssue] - it has no stubs
    include=["modeling.medical_images", "services.gateway", "pydicom", "nibabel"]
):
    from tests.fuzzing.targets import TARGETS

from tests.fuzzing.seeds import MOST_BYTES, seeds

_HELP = f"""Fuzz one of the front doors; exits with 77 at a finding, whose input is kept.

Targets: {", ".join(TARGETS)}. What was found interesting is kept in the corpus, so that the
next run goes on from there.

Examples:

    python -m tests.fuzzing dicom --seconds 600

    python -m tests.fuzzing image --again crash-3f2a...    one input, with its traceback
"""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help=_HELP)
def fuzz(
    target: str,
    *,
    seconds: Annotated[int, typer.Option(min=1, help="How long.")] = 60,
    corpus: Annotated[Path | None, typer.Option(help="Folder of inputs.")] = None,
    again: Annotated[Path | None, typer.Option(help="Only this input.")] = None,
    limit_mb: Annotated[int, typer.Option(min=64, help="More memory is a finding.")] = 2048,
) -> None:
    """See _HELP."""
    if target not in TARGETS:
        raise typer.BadParameter(f"there are {', '.join(TARGETS)}", param_hint="target")
    if again is not None:
        TARGETS[target](again.read_bytes())
        typer.echo("nothing was found")
        return
    folder = corpus or Path(platformdirs.user_cache_dir("galen-fuzzing", appauthor=False)) / target
    found = folder / "findings"
    found.mkdir(parents=True, exist_ok=True)
    _sow(target, folder / "seeds")
    kept = folder / "corpus"
    kept.mkdir(exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        "-timeout=10",
        f"-rss_limit_mb={limit_mb}",
        f"-max_len={MOST_BYTES}",
        f"-artifact_prefix={found}{os.sep}",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, str(kept), str(folder / "seeds")], TARGETS[target])
    atheris.Fuzz()


def _sow(target: str, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, seed in enumerate(seeds(target)):
        (folder / f"{number:03}").write_bytes(seed)


if __name__ == "__main__":
    app()
