"""The command line of `galen datagen instruct`: conversations about figures, by any endpoint.

    python -m datagen.instruct.command --help

What does *not* live here: asking and keeping (`generating.py`), the wording (`prompts.py`).
"""

import asyncio
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from datagen.errors import DataError
from datagen.figures import DOMAINS
from modeling.tool_errors import run_tool, say
from services.endpoint_client.endpoint_options import (
    LOCAL_URL,
    External,
    Key,
    Model,
    Recipient,
    Seed,
    Suspected,
    Temperature,
    Timeout,
    Url,
    client_of,
    endpoint_of,
    is_external,
)

if TYPE_CHECKING:
    from datagen.instruct.generating import Generation
    from datagen.instruct.run_files import RunFiles
    from services.endpoint_client.client import Endpoint

_EXIT_MISUSE = 2
_EXIT_INCOMPLETE = 3
_SENT = "every figure's caption, with its mentions, no image,"

app = typer.Typer(
    name="instruct",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def instruct_command(
    source: Annotated[
        Path,
        typer.Argument(metavar="FIGURES", help="JSON lines, a JSON list, or lists by domain."),
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="For conversations, JSON lines.")],
    model: Model = None,
    url: Url = LOCAL_URL,
    azure_api_version: Annotated[
        str | None,
        typer.Option(
            metavar="DATE", help="--url is an Azure resource, and --model names its deployment."
        ),
    ] = None,
    max_size: Annotated[
        int | None, typer.Option(min=1, help="So many figures; default: all.")
    ] = None,
    domain: Annotated[
        list[str] | None, typer.Option(help=f"Of these only: {', '.join(DOMAINS)}.")
    ] = None,
    mentions: Annotated[
        bool, typer.Option("--mentions/--no-mentions", help="Show what articles say of figures.")
    ] = True,
    structured: Annotated[
        Literal["auto", "on", "off"],
        typer.Option(help="Answers held to a JSON schema; auto: where the endpoint has them."),
    ] = "auto",
    batch: Annotated[
        bool, typer.Option("--batch", help="Through /v1/batches: cheaper, and later.")
    ] = False,
    at_once: Annotated[
        int, typer.Option(min=1, max=1024, help="Figures that are asked about at once.")
    ] = 32,
    tries: Annotated[
        int, typer.Option(min=1, help="A figure that gave nothing so often is left.")
    ] = 3,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a conversation, at most.")] = 2048,
    timeout: Timeout = 600,
    price_prompt: Annotated[
        float, typer.Option(min=0, help="What a million tokens of prompts cost.")
    ] = 0,
    price_completion: Annotated[float, typer.Option(min=0, help="Likewise, of answers.")] = 0,
    most_cost: Annotated[
        float | None, typer.Option(min=0, help="Nothing is sent that may cost more in all.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing; show what would be, and its cost.")
    ] = False,
    new_run: Annotated[
        bool, typer.Option("--new-run", help="Begin anew; what is there of a run is removed.")
    ] = False,
    allow_external: External = False,
    allow_suspected: Suspected = False,
    key: Key = None,
) -> None:
    """Have a language model write conversations about figures from their captions.

    Captions, labels and mentions are sent, no image. Each conversation is on the disk before it
    counts; stopped at any moment, the same command goes on.

    Exit code 0: done; 1: an error; 2: misuse, or --out holds another run; 3: figures have no
    conversation, or records could not be used; 130: stopped.

    For example:

    galen datagen instruct figures.json --out conversations.jsonl --max-size 1000 --dry-run

    galen datagen instruct figures.json --out conversations.jsonl --model llama-70b --at-once 64
    """
    from datagen.instruct.asking import Asker, Decoding
    from datagen.instruct.generating import Generation
    from datagen.instruct.prompts import Wording
    from datagen.instruct.run_files import Kept, RunFiles
    from datagen.instruct.sampling import Selection
    from services.endpoint_client.budget import Budget, Prices

    prices = _prices(Prices(price_prompt, price_completion), most_cost)
    domains = _domains(domain)
    decoding, wording = Decoding(temperature, seed, max_tokens), Wording(mentions)
    files = RunFiles(out)
    asker = Asker(model or "", wording, decoding, structured, Budget(prices, most_cost))
    if dry_run:
        with Selection(source, Path(gettempdir()), domains, max_size) as selection:
            kept = Kept(files)
            if not new_run:
                with _misuse():
                    files.check(_identity(source, asker, domains))
                kept.peek()
            _show(Generation(selection, asker, kept, tries), url, model)
        return
    files.out.parent.mkdir(parents=True, exist_ok=True)
    with Selection(source, files.out.parent, domains, max_size) as selection:
        to = Recipient(sent=_SENT, api_version=azure_api_version)
        endpoint = endpoint_of(url, model, key, timeout, allow_external=allow_external, to=to)
        asker.model = endpoint.model
        identity = _identity(source, asker, domains)
        with _misuse():
            files.open(identity, is_new=new_run)
        with Kept(files) as kept:
            if not batch:
                _refuse_to_pay_twice(files)
            asker.budget.spent = kept.totals.cost
            generation = Generation(selection, asker, kept, tries)
            _check_and_announce(generation, endpoint, may_name=allow_suspected)
            try:
                asyncio.run(_ask(generation, endpoint, files, at_once, by_batch=batch))
            finally:  # also where the endpoint ends it, and at Ctrl-C
                code = _finish(generation, identity, files)
            raise typer.Exit(code)


async def _ask(
    generation: "Generation",
    endpoint: "Endpoint",
    files: "RunFiles",
    at_once: int,
    *,
    by_batch: bool,
) -> None:
    from services.endpoint_client.client import EndpointError

    try:
        async with client_of(endpoint, at_once) as client:
            if by_batch:
                from datagen.instruct.batching import ask_by_batches

                await ask_by_batches(generation, client, files)
            else:
                await generation.ask(client, at_once)
    except EndpointError:
        say(f"what was written to {files.out} is kept, and the same command goes on with the rest")
        raise


def _prices(prices: Any, most_cost: float | None) -> Any:  # noqa: ANN401 - the SDK loads late
    if most_cost is not None and not (prices.prompt or prices.completion):
        raise typer.BadParameter("--most-cost needs --price-prompt, --price-completion, or both")
    return prices


def _domains(names: list[str] | None) -> tuple[str, ...]:
    for name in names or ():
        if name not in DOMAINS:
            raise typer.BadParameter(f"--domain {name!r}: take one of {', '.join(DOMAINS)}")
    return tuple(name for name in DOMAINS if name in (names or ()))


def _identity(source: Path, asker: Any, domains: tuple[str, ...]) -> dict[str, Any]:  # noqa: ANN401
    from dataclasses import asdict
    from hashlib import file_digest

    from datagen.instruct import prompts

    with source.open("rb") as file:
        input_sha256 = file_digest(file, "sha256").hexdigest()
    return {
        "kind": "instruct",
        "input_sha256": input_sha256,
        "model": asker.model,
        "prompt": prompts.VERSION,
        "prompt_sha256": asker.wording.sha256,
        "use_mentions": asker.wording.has_mentions,
        "structured": asker.structured,
        "decoding": asdict(asker.decoding),
        "domains": list(domains),
    }


@contextmanager
def _misuse() -> Generator[None]:
    from datagen.instruct.run_files import OtherRunError

    try:
        yield
    except OtherRunError as error:
        say(str(error))
        raise typer.Exit(_EXIT_MISUSE) from None


def _refuse_to_pay_twice(files: "RunFiles") -> None:
    from datagen.instruct.under_way import read_begun

    if begun := read_begun(files.batches):
        say(
            f"{sum(each.num_figures for each in begun)} figures are under way in batches, and are "
            "paid for there; add --batch, which collects them and goes on"
        )
        raise typer.Exit(_EXIT_MISUSE)


def _show(generation: "Generation", url: str, model: str | None) -> None:
    from datagen.instruct.notices import foresee

    foreseen = foresee(generation, generation.asker.budget.prices)
    print(foreseen.example)
    where = f"{url} ({model or 'its only model'})"
    counts = (f"{name} {number}" for name, number in sorted(foreseen.domains.items()))
    if foreseen.num_figures:
        say(f"above: what is sent about the first figure; of each domain: {', '.join(counts)}")
    if done := len(generation.selection.ids) - foreseen.num_figures:
        say(f"{done} of the chosen figures need no question: they have theirs, or were left")
    say(f"nothing was sent; {foreseen.num_figures} figures would go to {where}; {foreseen.words}")


def _check_and_announce(generation: "Generation", endpoint: "Endpoint", *, may_name: bool) -> None:
    from datagen.instruct.notices import check_texts, foresee

    if is_external(endpoint.url) and not may_name:
        check_texts(generation, endpoint.url)
    foreseen = foresee(generation, generation.asker.budget.prices)
    what = "captions with mentions" if generation.asker.wording.has_mentions else "captions"
    say(
        f"{foreseen.num_figures} {what} go to {endpoint.url} ({endpoint.model}), no images; "
        f"{foreseen.words}"
    )


def _finish(generation: "Generation", identity: dict[str, Any], files: "RunFiles") -> int:
    from datagen.instruct.report import report_of, sentences
    from modeling.durable_files import write_json

    report = report_of(generation, identity)
    write_json(files.report, report)
    for sentence in sentences(report):
        say(sentence)
    say(f"{files.out} and {files.report.name} are written")
    return 0 if report["status"] == "complete" else _EXIT_INCOMPLETE


def main() -> None:
    """Run the command line; a user's mistake is one line."""
    from services.endpoint_client.client import EndpointError
    from services.endpoint_client.record_file import RecordFileError

    run_tool(
        app,
        "galen datagen instruct",
        sys.argv[1:],
        mistakes=(DataError, EndpointError, RecordFileError),
        extra="datagen",
        when_stopped="what was written is kept, and the same command goes on",
    )


if __name__ == "__main__":
    main()
