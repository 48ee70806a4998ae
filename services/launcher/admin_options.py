"""`galen models`, `workers` and `adapters`: their options; the rest loads when they run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from services.launcher.admin_client import AdminClient

_DRAIN_S = 30.0
_HELP = {"help_option_names": ["-h", "--help"]}

Url = Annotated[
    str | None,
    typer.Option(help="The gateway, with or without /v1; default: that of your `galen up` here."),
]
AdminKey = Annotated[
    str | None,
    typer.Option(envvar="GALEN_ADMIN_KEY", help="Its admin key; default: that of your `galen up`."),
]
Timeout = Annotated[
    float, typer.Option(min=0, max=3600, help="Time for running requests, seconds.")
]
WorkerName = Annotated[
    str, typer.Argument(help="Its id, or the beginning of it.", show_default=False)
]

models_app = typer.Typer(no_args_is_help=True, context_settings=_HELP)
workers_app = typer.Typer(no_args_is_help=True, context_settings=_HELP)
adapters_app = typer.Typer(no_args_is_help=True, context_settings=_HELP)


@models_app.command("list")
def list_models(*, url: Url = None, admin_key: AdminKey = None) -> None:
    """List the models: served, loading, failed.

    For example:

    galen models list
    """
    with _client(url, admin_key) as client:
        client.list_models()


@models_app.command("load")
def load_model(  # noqa: PLR0913 - one parameter per option
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME=]DIR",
            help="Checkpoint in Hugging Face layout, on the host; not for the fake engine.",
            show_default=False,
        ),
    ] = None,
    *,
    name: Annotated[
        str | None, typer.Option(help="Name that clients ask for; default: the folder's.")
    ] = None,
    engine: Annotated[
        Literal["auto", "transformers", "vllm", "fake"],
        typer.Option(help="auto: what suits the cards."),
    ] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, max=64, help="Number of workers.")] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, max=65_536, help="Requests that a worker runs at once.")
    ] = None,
    tensor_parallel_size: Annotated[
        int | None, typer.Option(min=1, max=64, help="Cards that share each layer.")
    ] = None,
    quantization: Annotated[
        Literal["none", "bnb-int8", "bnb-nf4", "bnb-fp4"] | None,
        typer.Option(help="Of the language model's weights; transformers engine only."),
    ] = None,
    device_map: Annotated[
        Literal["none", "auto"] | None, typer.Option(help="auto: whole layers on each card.")
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"] | None,
        typer.Option(help="Weights' type."),
    ] = None,
    context_length: Annotated[
        int | None, typer.Option(min=16, help="Most tokens of prompt and answer.")
    ] = None,
    adapters_dir: Annotated[
        Path | None, typer.Option(help="Folder of LoRA adapters, one folder each.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Where; needed with several hosts.")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is ready.")] = True,
    timeout: Annotated[float, typer.Option(min=1, help="Longest wait, seconds.")] = 900,
    url: Url = None,
    admin_key: AdminKey = None,
) -> None:
    """Load a model while everything runs. It is checked first; what runs is not disturbed.

    For example:

    galen models load ./llava-med

    galen models load second=./llava-med --quantization bnb-nf4 --no-wait
    """
    from services.launcher.model_argument import absolute_path, name_and_folder

    said, path = (None, None) if model is None else name_and_folder(model)
    if said is not None and name is not None:
        raise typer.BadParameter(
            f"the model has two names, {said!r} and {name!r}: leave --name out"
        )
    body = {
        "path": path,
        "id": said if name is None else name,
        "host": host,
        "engine": engine,
        "workers": workers,
        "slots": slots,
        "tensor_parallel_size": tensor_parallel_size,
        "quantization": quantization,
        "device_map": device_map,
        "dtype": dtype,
        "context_length": context_length,
        "adapters_dir": None if adapters_dir is None else absolute_path(adapters_dir),
    }
    with _client(url, admin_key) as client:
        client.load(body, wait_s=timeout if wait else None)


@models_app.command("unload")
def unload_model(
    model: Annotated[str, typer.Argument(help="Its name.", show_default=False)],
    *,
    timeout: Timeout = _DRAIN_S,
    url: Url = None,
    admin_key: AdminKey = None,
) -> None:
    """Unload a model: unknown at once, waiting requests end with an error, running ones may finish.

    For example:

    galen models unload second
    """
    with _client(url, admin_key) as client:
        client.unload(model, timeout)


@workers_app.command("list")
def list_workers(*, url: Url = None, admin_key: AdminKey = None) -> None:
    """List the workers, wherever they run.

    For example:

    galen workers list
    """
    with _client(url, admin_key) as client:
        client.list_workers()


@workers_app.command("cordon")
def cordon_worker(worker: WorkerName, *, url: Url = None, admin_key: AdminKey = None) -> None:
    """Let a worker claim nothing new; what it runs goes on, and it stays loaded.

    For example:

    galen workers cordon worker-2
    """
    with _client(url, admin_key) as client:
        client.order(worker, "cordon")


@workers_app.command("uncordon")
def uncordon_worker(worker: WorkerName, *, url: Url = None, admin_key: AdminKey = None) -> None:
    """Let a worker claim again.

    For example:

    galen workers uncordon worker-2
    """
    with _client(url, admin_key) as client:
        client.order(worker, "uncordon")


@workers_app.command("drain")
def drain_worker(
    worker: WorkerName,
    *,
    timeout: Timeout = _DRAIN_S,
    url: Url = None,
    admin_key: AdminKey = None,
) -> None:
    """Let a worker finish what it runs, hand the rest to others, and end.

    For example:

    galen workers drain worker-2 --timeout 120
    """
    with _client(url, admin_key) as client:
        client.order(worker, "drain", {"timeout_s": timeout})


@adapters_app.command("check")
def check_adapter_folder(
    folder: Annotated[Path, typer.Argument(help="An adapter in PEFT's layout.", metavar="DIR")],
    *,
    base: Annotated[Path, typer.Option(metavar="DIR", help="The checkpoint that it is for.")],
    max_rank: Annotated[
        int, typer.Option(min=1, envvar="GALEN_WORKER_MAX_LORA_RANK", help="What workers take.")
    ] = 64,
) -> None:
    """Check a LoRA adapter against its base, as a worker does; loads no weights.

    For example:

    galen adapters check ./adapters/chest --base ./llava-med
    """
    from services.launcher.adapter_check import check_adapter

    for line in check_adapter(folder, base, max_rank):
        typer.echo(line)


def _client(url: str | None, admin_key: str | None) -> "AdminClient":
    from services.launcher.admin_access import find_access
    from services.launcher.admin_client import AdminClient

    return AdminClient(find_access(url, admin_key))
