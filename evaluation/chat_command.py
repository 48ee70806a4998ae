"""`galen evaluate chat`: the judged medical chat from questions to report, in one command.

What does *not* live here: asking and judging (`chat_running.py`).
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evaluation.judge_notices import check_and_announce, prices_of
from evaluation.options import (
    AtOnce,
    JudgeName,
    Limit,
    MaxTokens,
    MostCost,
    NewRun,
    PriceCompletion,
    PricePrompt,
    Swap,
    as_name,
    no_other_run,
    say_failed,
)
from modeling.tool_errors import say
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
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evaluation.chat_running import ChatDone
    from evaluation.judging.asking import Judgement

_TO = Recipient(
    "--judge-url",
    "--judge",
    "every question, with both answers, the caption and the mentions, no image,",
    "JUDGE_API_KEY",
)


def chat_command(
    *,
    questions: Annotated[
        Path, typer.Option(metavar="FILE", help="The medical chat's questions, JSON lines.")
    ],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: images, beside the questions.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Default: evaluations/chat-MODEL."),
    ] = None,
    model: Model = None,
    url: Url = LOCAL_URL,
    temperature: Temperature = 0,
    max_tokens: MaxTokens = 1024,
    seed: Seed = 0,
    limit: Limit = None,
    judge: JudgeName = None,
    judge_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Of the judge; default: that of the model.")
    ] = None,
    swap: Swap = False,
    judge_max_tokens: Annotated[int, typer.Option(min=1, help="Of a judge's reply.")] = 512,
    price_prompt: PricePrompt = 0,
    price_completion: PriceCompletion = 0,
    most_cost: MostCost = None,
    at_once: AtOnce = 8,
    timeout: Timeout = 600,
    new_run: NewRun = False,
    allow_external: External = False,
    allow_suspected: Suspected = False,
    key: Key = None,
    judge_key: Annotated[str | None, typer.Option(envvar="JUDGE_API_KEY", hidden=True)] = None,
) -> None:
    """Ask a model the medical chat's questions, have a judge score its answers, report both.

    The model gets questions with images; the judge questions, both answers, captions and mentions,
    no image. Stopped at any moment, the same command goes on where it was. Keys are read from
    OPENAI_API_KEY and, for the judge, JUDGE_API_KEY; a judge at the model's URL gets the model's.

    Exit code 0: done; 1: an error; 2: misuse, or --out holds another run; 3: questions are
    unscored; 130: stopped.

    For example:

    galen evaluate chat --model llava-med --questions qa50.jsonl --judge another-model

    galen evaluate chat --model llava-med --questions qa50.jsonl --swap --allow-external
    --judge-url https://HOST/v1 --judge MODEL --price-prompt 2.5 --price-completion 10 --most-cost 5
    """
    from evaluation.answering import Decoding
    from evaluation.chat_items import read_chat_items
    from evaluation.chat_running import ChatRun, answer_and_judge
    from evaluation.judge_notices import judged_table, say_unscored
    from evaluation.judging.asking import Judge
    from evaluation.run_folder import REPORT_FILE
    from services.endpoint_client.budget import Budget

    prices = prices_of(price_prompt, price_completion, most_cost)
    items = read_chat_items(questions)[:limit]
    asked = endpoint_of(url, model, key, timeout, allow_external=allow_external)
    at = judge_url or url
    given = judge_key or (key if at == url else None)  # a key goes to its own host only
    judge_at = endpoint_of(at, judge, given, timeout, allow_external=allow_external, to=_TO)
    if (judge_at.url, judge_at.model) == (asked.url, asked.model):
        say(f"{asked.model} judges its own answers: models favour these")
    run = ChatRun(
        folder=out or Path("evaluations") / f"chat-{as_name(asked.model)}",
        items=items,
        images=images or questions.parent / "images",
        decoding=Decoding(temperature=temperature, max_tokens=max_tokens, seed=seed),
        in_both_orders=swap,
    )

    def announce(judgements: "Sequence[Judgement]") -> None:
        check_and_announce(judgements, judge_at, prices, may_name=allow_suspected)

    async def answered_and_judged() -> "ChatDone":
        async with client_of(asked, at_once) as client, client_of(judge_at, at_once) as judging:
            it = Judge(judging, seed, judge_max_tokens, Budget(prices, most_cost))
            return await answer_and_judge(
                run, client, it, announce, at_once=at_once, is_new=new_run
            )

    say(f"{len(items)} questions with their images go to {asked.url} ({asked.model})")
    announce(run.foreseen)
    with no_other_run():
        done = asyncio.run(answered_and_judged())
    print(judged_table(done.judged))
    say_failed(done.failed)
    code = say_unscored(done.judged, len(items))
    say(f"{run.folder / REPORT_FILE} is written")
    raise typer.Exit(code)
