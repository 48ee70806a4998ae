"""Options of commands that ask an endpoint: where it is, and consent before anything leaves.

Nothing heavy is imported before it is needed. What does *not* live here: options of one command.
"""

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from services.endpoint_client.client import Endpoint, EndpointClient

LOCAL_URL = "http://127.0.0.1:8000/v1"
Url = Annotated[str, typer.Option(metavar="URL", help="OpenAI-compatible endpoint, with /v1.")]
Model = Annotated[
    str | None, typer.Option(help="Name at the endpoint; default: the only one it serves.")
]
Timeout = Annotated[float, typer.Option(min=1, help="Longest wait for one answer, seconds.")]
External = Annotated[
    bool,
    typer.Option(
        "--allow-external",
        help="Send what is asked to a host that is not this machine. Only with data that "
        "may leave it.",
    ),
]
Temperature = Annotated[float, typer.Option(min=0, max=2)]
Seed = Annotated[int, typer.Option(min=0)]
# Hidden: what stands in a command line is seen by all who may list processes.
Key = Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", hidden=True)]
Suspected = Annotated[
    bool, typer.Option("--allow-suspected", help="Send texts that seem to name a patient, too.")
]


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who is asked, in the words of a command's options.

    Args:
        sent: what goes there, as the beginning of a sentence.
        key_name: the variable that its key is read from.
        api_version: of Azure's deployments.
    """

    url_option: str = "--url"
    model_option: str = "--model"
    sent: str = "every question, with its image,"
    key_name: str = "OPENAI_API_KEY"
    api_version: str | None = None


ASKED = Recipient()


def is_external(url: str) -> bool:
    """Whether what is sent there leaves this machine."""
    from services.endpoint_client.places import host_of, is_this_machine

    host = host_of(url)
    return host is not None and not is_this_machine(host)


def endpoint_of(
    url: str,
    model: str | None,
    key: str | None,
    timeout_s: float,
    *,
    allow_external: bool,
    to: Recipient = ASKED,
) -> "Endpoint":
    """Return where questions go.

    Raises:
        typer.BadParameter: it is no address, or one of another machine without consent, or a
            deployment that nobody named.
        EndpointError: no model is named, and it serves none or several, or cannot be asked which.
    """
    from services.endpoint_client.client import Endpoint
    from services.endpoint_client.places import host_of

    host = host_of(url)
    if host is None:
        raise typer.BadParameter(f"{to.url_option} {url!r}: write http://HOST:PORT/v1")
    if not allow_external and is_external(url):
        raise typer.BadParameter(
            f"{to.sent} would be sent to {host}, which is not this machine; if these data may go "
            "there, say so with --allow-external"
        )
    endpoint = Endpoint(
        url.rstrip("/"),
        model or "",
        key or "unused",
        timeout_s,
        key_name=to.key_name,
        api_version=to.api_version,
    )
    if not model and to.api_version is not None:
        raise typer.BadParameter(f"{to.model_option}: name the deployment; Azure lists none")
    return endpoint if model else asyncio.run(_with_only_model(endpoint, to.model_option))


async def _with_only_model(endpoint: "Endpoint", option: str) -> "Endpoint":
    from services.endpoint_client.client import EndpointError

    async with client_of(endpoint, 1) as client:
        names = await client.model_names()
    if len(names) != 1:
        listed = ", ".join(names) or "none"
        raise EndpointError(
            f"{endpoint.url} serves {listed}; choose one with {option}", is_final=True
        )
    return replace(endpoint, model=names[0])


def client_of(endpoint: "Endpoint", at_once: int) -> "EndpointClient":
    """Return a client; the SDK is imported when it is needed."""
    from services.endpoint_client.client import EndpointClient

    return EndpointClient(endpoint, at_once)
