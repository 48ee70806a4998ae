"""The command line of the converters: `galen convert` runs this module.

    python -m modeling.checkpoints.convert_command --help

What does *not* live here: the conversions. They load torch, which `--help` does not need.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from modeling.checkpoints.job import Job
from modeling.tool_errors import run_tool

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)B", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_DTYPES = {"auto": None, "float32": "F32", "float16": "F16", "bfloat16": "BF16"}

app = typer.Typer(
    name="convert",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn LLaVA-Med's checkpoints into ones that every engine serves, and back. An "
    "interrupted conversion goes on when the same command is run again.",
)

_Folder = Annotated[Path, typer.Argument(metavar="DIR", show_default=False)]
_Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to make.")]
_Tower = Annotated[
    Path | None,
    typer.Option(
        "--tower",
        metavar="DIR",
        help="Folder of the vision tower: CLIP in Hugging Face layout, or BiomedCLIP with its "
        "open_clip_pytorch_model.bin.",
    ),
]
_Dtype = Annotated[
    Literal["auto", "float32", "float16", "bfloat16"],
    typer.Option(help="Type of the weights; auto: as they are stored."),
]
_AspectRatio = Annotated[
    Literal["square", "pad", "resize", "keep"] | None,
    typer.Option(
        help="What is done with images that are not square: cut the centre out (square), pad with "
        "the mean colour, distort (resize), or keep the shape. Default: what the checkpoint says."
    ),
]
_ShardSize = Annotated[str, typer.Option(help="Largest file of weights, such as 5GB or 500MB.")]
_DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be done; write nothing.")
]


@app.command("apply-delta")
def apply_delta_command(
    *,
    base: Annotated[Path, typer.Option(metavar="DIR", help="LLaMA-1 7B in Hugging Face layout.")],
    delta: Annotated[Path, typer.Option(metavar="DIR", help="The published differences.")],
    out: Annotated[Path, typer.Option("--out", "--target", metavar="DIR", help="Folder to make.")],
    max_shard_size: _ShardSize = "5GB",
    dry_run: _DryRun = False,
) -> None:
    """Add a delta to its base: the first step for LLaVA-Med v1.0.

    Needs about 1 GB of memory whatever the size of the model.

    For example:

    galen convert apply-delta --base ./llama-7b --delta ./llava-med-7b-delta --out ./merged
    """
    job = _job(out, max_shard_size, dry_run=dry_run)
    from modeling.checkpoints.conversions import apply_delta

    apply_delta(base, delta, job)


@app.command("make-delta")
def make_delta_command(
    *,
    base: Annotated[Path, typer.Option(metavar="DIR", help="What the model was trained from.")],
    target: Annotated[Path, typer.Option(metavar="DIR", help="The model, in original layout.")],
    out: _Out,
    max_shard_size: _ShardSize = "5GB",
    dry_run: _DryRun = False,
) -> None:
    """Subtract a base from a model, so that it can be published without the base's weights.

    For example:

    galen convert make-delta --base ./llama-7b --target ./merged --out ./my-delta
    """
    job = _job(out, max_shard_size, dry_run=dry_run)
    from modeling.checkpoints.conversions import make_delta

    make_delta(base, target, job)


@app.command("v1")
def v1_command(
    checkpoint: _Folder,
    *,
    tower: _Tower = None,
    out: _Out,
    dtype: _Dtype = "auto",
    bos: Annotated[
        str | None, typer.Option(help="Token that prompts begin with; default: the checkpoint's.")
    ] = None,
    template: Annotated[
        Literal[
            "v0",
            "v0_training",
            "v1",
            "simple",
            "simple_legacy",
            "multimodal",
            "llava_v1",
            "vicuna_v1_1",
            "bair_v1",
        ],
        typer.Option(
            help="How it is asked, by LLaVA-Med's own names; published v1.0 models: v0. Beware: v1 "
            "is of the kind with ###; USER and ASSISTANT are llava_v1's."
        ),
    ] = "v0",
    image_aspect_ratio: _AspectRatio = None,
    max_shard_size: _ShardSize = "5GB",
    dry_run: _DryRun = False,
) -> None:
    """Convert LLaVA-Med v1.0 (after apply-delta) into Hugging Face layout.

    For example:

    galen convert v1 ./merged --tower ./clip-vit-large-patch14 --out ./llava-med-v1
    """
    job = _job(out, max_shard_size, dry_run=dry_run)
    from modeling.checkpoints.conversions import V1Options, convert_v1

    convert_v1(checkpoint, tower, V1Options(_DTYPES[dtype], bos, template, image_aspect_ratio), job)


@app.command("v15")
def v15_command(
    checkpoint: _Folder,
    *,
    vision_tower: Annotated[
        Literal["checkpoint", "stock"],
        typer.Option(
            help="checkpoint: the tower stored in it; stock: OpenAI's from --tower, which the "
            "published code loads. With --tower, both are compared."
        ),
    ],
    tower: _Tower = None,
    out: _Out,
    dtype: _Dtype = "auto",
    image_aspect_ratio: _AspectRatio = None,
    max_shard_size: _ShardSize = "5GB",
    dry_run: _DryRun = False,
) -> None:
    """Convert LLaVA-Med v1.5 into Hugging Face layout.

    For example:

    galen convert v15 ./llava-med-v1.5-mistral-7b --vision-tower checkpoint --out ./llava-med-v15

    galen convert v15 ./llava-med-v1.5-mistral-7b --vision-tower stock
    --tower ./clip-vit-large-patch14-336 --out ./llava-med-v15 --dry-run
    """
    job = _job(out, max_shard_size, dry_run=dry_run)
    from modeling.checkpoints.conversions import V15Options, convert_v15

    convert_v15(
        checkpoint, tower, V15Options(vision_tower, _DTYPES[dtype], image_aspect_ratio), job
    )


@app.command("to-v1")
def to_v1_command(
    checkpoint: _Folder,
    *,
    out: _Out,
    max_shard_size: _ShardSize = "5GB",
    dry_run: _DryRun = False,
) -> None:
    """Convert what `galen convert v1` made back, for those who still run LLaVA-Med v1.0's code.

    That code needs the package safetensors, and finds its vision tower by itself.

    For example:

    galen convert to-v1 ./llava-med-v1 --out ./for-the-old-code
    """
    job = _job(out, max_shard_size, dry_run=dry_run)
    from modeling.checkpoints.conversions import convert_to_v1

    convert_to_v1(checkpoint, job)


def _job(out: Path, max_shard_size: str, *, dry_run: bool) -> Job:
    return Job(out, _shard_bytes(max_shard_size), dry_run)


def _shard_bytes(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None or not float(match[1]):
        raise typer.BadParameter(f"{text!r} is no size; give one such as 5GB or 500MB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def main(arguments: Sequence[str]) -> None:
    """Run a command line and end the process."""
    goes_on = "a conversion goes on when the same command is run again"
    run_tool(app, "galen convert", arguments, when_stopped=goes_on)


if __name__ == "__main__":
    main(sys.argv[1:])
