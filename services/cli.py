"""The command `galen`: options and help texts. Each sub-command loads what it needs when it runs.

    galen --help

What does *not* live here: what the commands do (`launcher/`, `gateway/main.py`, `worker/main.py`).
"""

import asyncio
import io
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from services.launcher.admin_options import adapters_app, models_app, workers_app
from services.launcher.audit_options import audit_app, feedback_app
from services.launcher.image_argument import image_argument
from services.launcher.key_options import ApiKey, keys_app
from services.launcher.service_options import services_app
from services.launcher.store_options import store_app
from services.launcher.terminal import CommandError, Terminal
from services.launcher.tools import data_app, datagen_app, tools_app

_EXIT_FAILED = 1
_EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports it
_DEFAULT_URL = "http://127.0.0.1:8000/v1"

app = typer.Typer(
    name="galen",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(services_app)
app.add_typer(tools_app)
app.add_typer(adapters_app, name="adapters", help="Check LoRA adapters.")
app.add_typer(audit_app, name="audit", help="Read the record of who asked what, and check it.")
app.add_typer(data_app, name="data", help="Make data to train on.")
app.add_typer(datagen_app, name="datagen", help="Make instruction data with a teacher model.")
app.add_typer(feedback_app, name="feedback", help="Make training data of votes.")
app.add_typer(keys_app, name="keys", help="Make, list, revoke and rotate API keys.")
app.add_typer(models_app, name="models", help="List, load and unload models while all runs.")
app.add_typer(store_app, name="store", help="Look after the database.")
app.add_typer(workers_app, name="workers", help="List, cordon, uncordon and drain workers.")


@app.command()
def up(  # noqa: PLR0913 - one parameter per option
    *,
    host: Annotated[
        str, typer.Option(envvar="GALEN_GATEWAY_HOST", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(min=0, max=65_535, envvar="GALEN_GATEWAY_PORT", help="Port; 0: any free one."),
    ] = 8000,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR",
            help="Checkpoint in Hugging Face layout; may be given several times. Without it (and "
            "GALEN_WORKER_MODEL_PATH) the miniature that ships with Galen is served.",
        ),
    ] = None,
    engine: Annotated[
        Literal["auto", "transformers", "vllm", "fake"],
        typer.Option(
            envvar="GALEN_WORKER_ENGINE",
            help="auto: what suits the cards; fake answers numbered tokens.",
        ),
    ] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=64, help="Workers per model; default: what suits the cards."),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65_536,
            envvar="GALEN_WORKER_SLOTS",
            help="Requests that a worker runs at once; default: what fits the cards, 8 on a CPU.",
        ),
    ] = None,
    tensor_parallel_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            envvar="GALEN_WORKER_TENSOR_PARALLEL_SIZE",
            help="Cards (or CPU processes) that share each layer.",
        ),
    ] = None,
    quantization: Annotated[
        Literal["none", "bnb-int8", "bnb-nf4", "bnb-fp4"] | None,
        typer.Option(
            envvar="GALEN_WORKER_QUANTIZATION",
            help="Of the language model's weights; transformers engine only.",
        ),
    ] = None,
    device_map: Annotated[
        Literal["none", "auto"] | None,
        typer.Option(envvar="GALEN_WORKER_DEVICE_MAP", help="auto: whole layers on each card."),
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None,
        typer.Option(envvar="GALEN_WORKER_DTYPE", help="Weights' type."),
    ] = None,
    context_length: Annotated[
        int | None,
        typer.Option(
            min=16,
            envvar="GALEN_WORKER_CONTEXT_LENGTH",
            help="Most tokens of prompt and answer; default: what fits, up to 4096.",
        ),
    ] = None,
    adapters_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="GALEN_WORKER_ADAPTERS_DIR", help="Folder of LoRA adapters, one folder each."
        ),
    ] = None,
    worker_python: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            envvar="GALEN_UP_WORKER_PYTHON",
            help="Python of another virtual environment, for workers with vLLM.",
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=0,
            max=64,
            envvar="GALEN_JOBS_PROCESSES",
            help="Processes that work on batches and evaluations; 0: none.",
        ),
    ] = 1,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            envvar="GALEN_STORE_DIR",
            help="Folder of files and of the database; default: the user's own for data.",
        ),
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(
            envvar=["GALEN_GATEWAY_REDIS_URL", "GALEN_WORKER_REDIS_URL"],
            help="A Redis of your own (redis://… or unix://…) instead of an embedded one.",
        ),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="Image to ask about; default: a drawn scan."
        ),
    ] = None,
    question: Annotated[str | None, typer.Option(help="What to ask about it.")] = None,
    ask: Annotated[bool, typer.Option("--ask/--no-ask", help="Ask it when ready.")] = True,
    once: Annotated[bool, typer.Option("--once", help="Answer, then leave.")] = False,
    ui: Annotated[bool, typer.Option("--ui/--no-ui", help="Start the page, too.")] = True,
    ui_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65_535,
            envvar="GALEN_UI_PORT",
            help="Port of the page; default: 7860, or any free one where that is taken.",
        ),
    ] = None,
    start_timeout: Annotated[
        float, typer.Option(min=1, help="Longest wait until the model is ready, seconds.")
    ] = 900,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Option(help="Least level of logs; default: info."),
    ] = None,
) -> None:
    """Start everything on this machine: Redis, gateway, workers of models and of jobs, the page.

    Asks one question about an image, prints how to ask again, and serves until Ctrl-C.

    An option wins over its variable (GALEN_GATEWAY_…, GALEN_WORKER_…), which wins over the default.

    For example:

    galen up

    galen up --once

    galen up --model ./llava-med --workers 2 --port 9000

    galen up --model med=./llava-med --model ./llava-7b --quantization bnb-nf4

    galen up --engine fake --no-ask
    """
    from services.launcher.image_files import image_mime
    from services.launcher.page_process import PageAddress
    from services.launcher.up import UpOptions, run_up

    if question is not None:
        _check_question(question)
    if image is not None:
        image_mime(image)
    options = UpOptions(
        host=host,
        port=port,
        engine=engine,
        models=tuple(model or ()),
        overrides={
            "workers": workers,
            "slots": slots,
            "tensor_parallel_size": tensor_parallel_size,
            "quantization": quantization,
            "device_map": device_map,
            "dtype": dtype,
            "context_length": context_length,
            "adapters_dir": None if adapters_dir is None else str(adapters_dir.resolve()),
        },
        worker_python=worker_python,
        log_level=log_level,
        start_timeout_s=start_timeout,
        question=question,
        image=image,
        redis_url=redis_url,
        jobs=jobs,
        data_dir=data_dir,
        ask=ask,
        once=once,
        page=PageAddress(host, ui_port) if ui else None,
    )
    raise typer.Exit(run_up(options))


@app.command()
def plan(
    model: Annotated[
        str,
        typer.Argument(
            help="Checkpoint folder, config.json, or preset (an unknown name lists them).",
            show_default=False,
        ),
    ],
    *,
    gpus: Annotated[
        str | None,
        typer.Option(help="Cards such as 2x24GB or 24GiB,48GiB; default: those that are here."),
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=16, help="Tokens of prompt and answer; default: 4096.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=65_536, help="Requests at once.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what fits on which cards; reads headers only, loads nothing.

    Exit code 0: something fits; 1: nothing does, or an error; 2: misuse.

    For example:

    galen plan llava-med-v1.5-7b --gpus 2x24GB

    galen plan ./my-checkpoint --context 8192 --concurrency 4
    """
    from services.launcher.plan_command import run_plan

    raise typer.Exit(run_plan(model, gpus, context, concurrency, as_json=as_json))


@app.command()
def ask(  # noqa: PLR0913 - one parameter per option
    question: Annotated[str, typer.Argument(help="What to ask.", show_default=False)],
    *,
    image: Annotated[
        list[str] | None,
        typer.Option(parser=image_argument, metavar="FILE|URL", help="Also DICOM; any number."),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream/--no-stream", help="Print the answer as it is written.")
    ] = True,
    model: Annotated[str | None, typer.Option(help="Default: the first that is served.")] = None,
    url: Annotated[str, typer.Option(help="The gateway, with or without /v1.")] = _DEFAULT_URL,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, max=2.0, help="0: always the likeliest token.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    key: ApiKey = None,
) -> None:
    """Ask a running gateway about images, with the key in GALEN_API_KEY where one is needed.

    For example:

    galen ask --image scan.png "What does this image show?"

    galen ask --image before.png --image after.png "What has changed?"
    """
    from services.launcher.chat import Question, answer_pieces
    from services.launcher.gateway_url import api_url

    _check_question(question)
    asked = Question(question, tuple(image or ()), model, system, max_tokens, temperature)

    async def print_answer() -> None:
        try:
            await Terminal().answer(answer_pieces(api_url(url), asked, stream=stream, key=key))
        except BrokenPipeError:  # `| head`: nobody is left to tell how the client closes
            os._exit(_EXIT_BROKEN_PIPE)

    asyncio.run(print_answer())


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    try:
        number = installed_version("galen")
    except PackageNotFoundError:
        number = "(not installed: run from its source)"
    print(f"galen {number}, Python {sys.version.split()[0]}")


def _print_version(is_asked: bool) -> None:  # noqa: FBT001 - Typer calls it
    if is_asked:
        version()
        raise typer.Exit


@app.callback()
def options_before_a_command(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    """An inference platform for medical vision-language models. Research use only."""


def _check_question(question: str) -> None:
    if not question.strip():
        raise typer.BadParameter("the question is empty")


def _is_environment(source: object) -> bool:
    return getattr(source, "name", "") == "ENVIRONMENT"  # click's enum, which Typer hides


def _in_words(error: typer.TyperException) -> str:
    """Return a mistake in one line; it names the variable where a value came from one."""
    if isinstance(error, typer.BadParameter) and error.ctx and error.param and error.param.name:
        variables = error.param.envvar
        if variables and _is_environment(error.ctx.get_parameter_source(error.param.name)):
            name = variables if isinstance(variables, str) else " or ".join(variables)
            return f"Invalid value for {name}: {error.message}"
    return error.format_message()


def main() -> None:
    """Entry point of `galen`: an error of the user's is one line, never a trace."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may know no more than ASCII
    try:
        sys.exit(app(prog_name="galen", standalone_mode=False) or 0)
    except typer.TyperException as error:
        if message := _in_words(error):  # `galen` alone has printed its help
            print(f"galen: {message} (see --help)", file=sys.stderr)
        sys.exit(error.exit_code)
    except CommandError as error:
        Terminal().failure(error)
        sys.exit(_EXIT_FAILED)
    except BrokenPipeError:
        # Else Python complains once more when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_EXIT_BROKEN_PIPE)


if __name__ == "__main__":
    main()
