"""`galen evaluate judge`: a model scores answers of the medical chat.

What does *not* live here: judging (`judging/`).
"""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evaluation.judge_notices import check_and_announce, prices_of
from evaluation.options import (
    AtOnce,
    JudgeName,
    MaxTokens,
    MostCost,
    NewRun,
    PriceCompletion,
    PricePrompt,
    Swap,
    no_other_run,
)
from modeling.tool_errors import say
from services.endpoint_client.endpoint_options import (
    LOCAL_URL,
    External,
    Key,
    Recipient,
    Seed,
    Suspected,
    Timeout,
    Url,
    client_of,
    endpoint_of,
)

if TYPE_CHECKING:
    from evaluation.judging.running import Judged

_TO = Recipient(
    model_option="--judge",
    sent="every question, with both answers, the caption and the mentions, no image,",
)


def judge_command(
    *,
    questions: Annotated[
        Path, typer.Option(metavar="FILE", help="The medical chat's questions, JSON lines.")
    ],
    answers: Annotated[Path, typer.Option(metavar="FILE", help="Of the model, JSON lines.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="For replies, receipt and report.")],
    judge: JudgeName = None,
    url: Url = LOCAL_URL,
    swap: Swap = False,
    at_once: AtOnce = 8,
    timeout: Timeout = 600,
    max_tokens: MaxTokens = 512,
    seed: Seed = 0,
    price_prompt: PricePrompt = 0,
    price_completion: PriceCompletion = 0,
    most_cost: MostCost = None,
    new_run: NewRun = False,
    allow_external: External = False,
    key: Key = None,
    allow_suspected: Suspected = False,
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
    from evaluation.judge_notices import judged_table, say_unscored
    from evaluation.judging.asking import Judge
    from evaluation.judging.running import JudgedRun, json_hash, judge_run, judging_identity
    from evaluation.run_folder import JUDGEMENT, REPORT_FILE, open_run
    from evaluation.vqa_items import read_answers
    from services.endpoint_client.budget import Budget

    prices = prices_of(price_prompt, price_completion, most_cost)
    items, said = read_chat_items(questions), read_answers(answers)
    endpoint = endpoint_of(url, judge, key, timeout, allow_external=allow_external, to=_TO)
    run = JudgedRun(out, {}, items, said, swap)
    check_and_announce(run.asked, endpoint, prices, may_name=allow_suspected)

    async def judged() -> "Judged":
        async with client_of(endpoint, at_once) as client:
            it = Judge(client, seed, max_tokens, Budget(prices, most_cost))
            answered = [[item.id, said.get(item.id)] for item in items]
            identity = {
                "kind": JUDGEMENT,
                **judging_identity(items, it, in_both_orders=swap),
                "answers_sha256": json_hash(answered),
            }
            open_run(out, identity, is_new=new_run)
            return await judge_run(replace(run, facts=identity), it, at_once=at_once)

    with no_other_run():
        found = asyncio.run(judged())
    print(judged_table(found))
    code = say_unscored(found, len(items))
    say(f"{out / REPORT_FILE} is written")
    raise typer.Exit(code)
