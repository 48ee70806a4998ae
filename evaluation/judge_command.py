"""`galen evaluate judge`: a model scores answers of the medical chat.

What does *not* live here: judging (`judging/`).
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evaluation.options import (
    EXIT_INCOMPLETE,
    LOCAL_URL,
    AtOnce,
    External,
    Key,
    MaxTokens,
    Seed,
    Timeout,
    Url,
    client_of,
    endpoint_of,
    is_external,
    no_other_run,
)
from modeling.tool_errors import say

if TYPE_CHECKING:
    from evaluation.judging.running import Judged


def judge_command(
    *,
    questions: Annotated[
        Path, typer.Option(metavar="FILE", help="The medical chat's questions, JSON lines.")
    ],
    answers: Annotated[Path, typer.Option(metavar="FILE", help="Of the model, JSON lines.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="For replies and receipt.")],
    judge: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Default: the only one at the endpoint.")
    ] = None,
    url: Url = LOCAL_URL,
    swap: Annotated[
        bool, typer.Option("--swap", help="Ask in both orders; a score is the mean of both.")
    ] = False,
    at_once: AtOnce = 8,
    timeout: Timeout = 600,
    max_tokens: MaxTokens = 512,
    seed: Seed = 0,
    price_prompt: Annotated[float, typer.Option(min=0, help="Per million tokens.")] = 0,
    price_completion: Annotated[float, typer.Option(min=0, help="Per million tokens.")] = 0,
    most_cost: Annotated[
        float | None, typer.Option(min=0, help="Nothing is sent that may cost more in all.")
    ] = None,
    new_run: Annotated[
        bool, typer.Option("--new-run", help="Begin anew; replies in --out are removed.")
    ] = False,
    allow_external: External = False,
    key: Key = None,
    allow_suspected: Annotated[
        bool,
        typer.Option("--allow-suspected", help="Send texts that seem to name a patient, too."),
    ] = False,
) -> None:
    """Have a model score answers of the medical chat against the stored ones.

    Questions, answers, captions and mentions are sent, no image. A reply without two scores is
    asked for again twice, then counts as unscored: it is never replaced.

    Exit code 0: done; 1: an error; 2: misuse, or --out holds another run; 3: questions are
    unscored; 130: stopped.

    For example:

    galen evaluate judge --questions qa50.jsonl --answers answers.jsonl --out judged --swap
    """
    from evaluation.chat_items import read_chat_items
    from evaluation.judging.asking import Judge, Prices, estimated_cost, judgements_of
    from evaluation.judging.running import check_texts, judge_run
    from evaluation.vqa_items import read_answers

    if most_cost is not None and not (price_prompt or price_completion):
        raise typer.BadParameter("--most-cost needs --price-prompt, --price-completion, or both")
    items, said = read_chat_items(questions), read_answers(answers)
    asked = judgements_of(items, said, in_both_orders=swap)
    endpoint = endpoint_of(url, judge, key, timeout, allow_external=allow_external)
    if is_external(url) and not allow_suspected:
        check_texts(asked, endpoint.url)
    prices = Prices(price_prompt, price_completion)
    say(
        f"{len(asked)} questions with their answers go to {endpoint.url} ({endpoint.model}); about "
        f"{sum(each.prompt_tokens for each in asked):,.0f} tokens of prompts, "
        f"cost about {estimated_cost(asked, prices):.2f}"
    )

    async def judged() -> "Judged":
        async with client_of(endpoint, at_once) as client:
            it = Judge(client, seed, max_tokens, prices, most_cost)
            return await judge_run(items, asked, it, out, at_once=at_once, is_new=new_run)

    with no_other_run():
        found = asyncio.run(judged())
    _print_judged(found)
    if found.num_unscored:
        why = f": {found.why}" if found.why else ""
        say(f"{found.num_unscored} of {len(items)} questions are unscored{why}")
        raise typer.Exit(EXIT_INCOMPLETE)


def _print_judged(found: "Judged") -> None:
    from evaluation.tables import aligned

    rows = [
        [
            name,
            version,
            f"{group.relative:.1f}",
            f"{group.low:.1f} to {group.high:.1f}",
            f"{group.model:.2f}",
            f"{group.reference:.2f}",
            str(group.num),
        ]
        for version, groups in found.groups.items()
        for name, group in groups.items()
    ]
    header = ["", "version", "relative %", "95 % interval", "model", "reference", "n"]
    print(aligned(header, rows))
