"""Options that several commands of `galen evaluate` share, and what they mean.

What does *not* live here: commands (`command.py`, `judge_command.py`).
"""

import asyncio
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evaluation.errors import EvaluationError, OtherRunError
from modeling.tool_errors import say

if TYPE_CHECKING:
    from services.endpoint_client.client import Endpoint, EndpointClient

EXIT_MISUSE = 2
EXIT_INCOMPLETE = 3
LOCAL_URL = "http://127.0.0.1:8000/v1"

Url = Annotated[str, typer.Option(metavar="URL", help="OpenAI-compatible endpoint, with /v1.")]
Model = Annotated[
    str | None, typer.Option(help="Name at the endpoint; default: the only one it serves.")
]
AtOnce = Annotated[int, typer.Option(min=1, max=1024, help="Questions that are asked at once.")]
Timeout = Annotated[float, typer.Option(min=1, help="Longest wait for one answer, seconds.")]
External = Annotated[
    bool,
    typer.Option(
        "--allow-external",
        help="Send images and questions to a host that is not this machine. Only with data that "
        "may leave it.",
    ),
]
Temperature = Annotated[float, typer.Option(min=0, max=2)]
MaxTokens = Annotated[int, typer.Option(min=1, help="Of an answer, at most.")]
Seed = Annotated[int, typer.Option(min=0)]
# Hidden: what stands in a command line is seen by all who may list processes.
Key = Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", hidden=True)]
Limit = Annotated[int | None, typer.Option(min=1, help="Ask the first ones only.")]
Candidates = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help='Open answers of the training set: {"0": [...]}.'),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NewRun = Annotated[
    bool, typer.Option("--new-run", help="Begin anew; what --out holds of a run is removed.")
]
JudgeName = Annotated[
    str | None, typer.Option("--judge", metavar="MODEL", help="Default: the only one at its URL.")
]
Swap = Annotated[
    bool, typer.Option("--swap", help="Ask in both orders; a score is the mean of both.")
]
PricePrompt = Annotated[float, typer.Option(min=0, help="What the judge takes per million tokens.")]
PriceCompletion = Annotated[float, typer.Option(min=0, help="Likewise.")]
MostCost = Annotated[
    float | None,
    typer.Option(min=0, help="The judge is sent nothing that may cost more in all."),
]
Suspected = Annotated[
    bool, typer.Option("--allow-suspected", help="Send texts that seem to name a patient, too.")
]


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who is asked, in the words of a command's options.

    Args:
        sent: what goes there, as the beginning of a sentence.
        key_name: the variable that its key is read from.
    """

    url_option: str = "--url"
    model_option: str = "--model"
    sent: str = "every question, with its image,"
    key_name: str = "OPENAI_API_KEY"


ASKED = Recipient()


@contextmanager
def no_other_run() -> Generator[None]:
    """Another run in the folder is misuse, and not a failure."""
    try:
        yield
    except OtherRunError as error:
        say(str(error))
        raise typer.Exit(EXIT_MISUSE) from None


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
        typer.BadParameter: it is no address, or one of another machine without consent.
        EvaluationError: no model is named, and it serves none or several.
        EndpointError: it cannot be asked which.
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
        url.rstrip("/"), model or "", key or "unused", timeout_s, key_name=to.key_name
    )
    return endpoint if model else asyncio.run(_with_only_model(endpoint, to.model_option))


async def _with_only_model(endpoint: "Endpoint", option: str) -> "Endpoint":
    async with client_of(endpoint, 1) as client:
        names = await client.model_names()
    if len(names) != 1:
        listed = ", ".join(names) or "none"
        raise EvaluationError(f"{endpoint.url} serves {listed}; choose one with {option}")
    return replace(endpoint, model=names[0])


def client_of(endpoint: "Endpoint", at_once: int) -> "EndpointClient":
    """Return a client; the SDK is imported when it is needed."""
    from services.endpoint_client.client import EndpointClient

    return EndpointClient(endpoint, at_once)


def say_failed(failed: Mapping[str, str]) -> int:
    """Say how many questions have no answer, and why; returns the exit code."""
    from evaluation.answering import why_failed

    if not failed:
        return 0
    say(
        f"{len(failed)} questions have no answer: {why_failed(failed)}; the same command asks "
        "them again"
    )
    return EXIT_INCOMPLETE


def as_name(model: str) -> str:
    """Return a model's name as one that a folder may have."""
    return re.sub(r"[^\w.-]+", "-", model).strip("-.") or "model"
