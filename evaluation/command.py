"""`galen evaluate`: questions to answers, answers to scores, a receipt, a report, comparisons.

What does *not* live here: all of it but options and words for the user.
"""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evaluation.chat_command import chat_command
from evaluation.errors import EvaluationError
from evaluation.judge_command import judge_command
from evaluation.options import (
    EXIT_INCOMPLETE,
    AtOnce,
    Candidates,
    Json,
    Limit,
    MaxTokens,
    NewRun,
    as_name,
    no_other_run,
    say_failed,
)
from evaluation.report_command import report_command
from modeling.tool_errors import EXIT_INTERRUPTED, run_tool, say, with_default
from services.endpoint_client.endpoint_options import (
    LOCAL_URL,
    External,
    Key,
    Model,
    Seed,
    Temperature,
    Timeout,
    Url,
    client_of,
    endpoint_of,
)

if TYPE_CHECKING:
    from evaluation.answering import Decoding
    from evaluation.running import Questions
    from evaluation.scoring import Scores
    from services.endpoint_client.client import Endpoint

_RUN = "run"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(_RUN)
def run_command(
    benchmark: Annotated[str, typer.Argument(help="vqa-rad, slake, pathvqa, phantoms or folder.")],
    *,
    data: Annotated[Path, typer.Option(metavar="DIR", help="Where its questions and images lie.")],
    model: Model = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Of the run; default: evaluations/BENCHMARK-MODEL."),
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    url: Url = LOCAL_URL,
    at_once: AtOnce = 8,
    timeout: Timeout = 600,
    temperature: Temperature = 0,
    max_tokens: MaxTokens = 64,
    seed: Seed = 0,
    limit: Limit = None,
    candidates: Candidates = None,
    distributed: Annotated[
        bool,
        typer.Option("--distributed", help="Let the platform's job workers ask (`galen jobs`)."),
    ] = False,
    write_questions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write them for the page's evaluation tab; ask nothing."),
    ] = None,
    new_run: NewRun = False,
    allow_external: External = False,
    key: Key = None,
) -> None:
    """Ask a model a benchmark's questions, and score, keep and report what it answers.

    The word `run` may be left out. Stopped at any moment, the same command goes on: each answer is
    on the disk before the next one counts. A key is read from OPENAI_API_KEY.

    Exit code 0: done; 1: an error; 2: misuse, or the folder holds another run; 3: questions have
    no answer; 130: stopped.

    For example:

    galen evaluate phantoms --data ./phantoms

    galen evaluate vqa-rad --data ./vqa-rad --model llava-med --out rad-1

    galen evaluate slake --data ./slake --model llava-med --distributed

    galen evaluate vqa-rad --data ./vqa-rad --write-questions vqa-rad.test.jsonl
    """
    from evaluation import benchmarks
    from evaluation.answering import Decoding
    from evaluation.running import Questions
    from evaluation.vqa_items import read_candidates, read_items

    found = benchmarks.find(benchmark)
    items = read_items(found.questions_file(data, split))
    if note := benchmarks.other_than_published(found, split, items):
        say(note)
    questions = Questions(
        benchmark=f"{benchmark}/{split}",
        items=items[:limit],
        images=found.images_folder(data),
        candidates=None if candidates is None else read_candidates(candidates),
    )
    if write_questions is not None:
        _write_questions(questions, write_questions)
        return
    endpoint = endpoint_of(url, model, key, timeout, allow_external=allow_external)
    decoding = Decoding(temperature=temperature, max_tokens=max_tokens, seed=seed)
    folder = out or Path("evaluations") / f"{benchmark}-{as_name(endpoint.model)}"
    most = None if distributed else at_once
    raise typer.Exit(_run(questions, endpoint, decoding, folder, most, is_new=new_run))


@app.command("answer")
def answer_command(
    questions_file: Annotated[Path, typer.Argument(metavar="QUESTIONS", help="JSON of LLaVA-Med.")],
    *,
    images: Annotated[Path, typer.Option(metavar="DIR", help="Folder of their images.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Answers, JSON lines.")],
    model: Model = None,
    url: Url = LOCAL_URL,
    at_once: AtOnce = 8,
    timeout: Timeout = 600,
    temperature: Temperature = 0,
    max_tokens: MaxTokens = 64,
    seed: Seed = 0,
    limit: Limit = None,
    allow_external: External = False,
    key: Key = None,
) -> None:
    """Write a model's answers to a file of questions, in LLaVA-Med's format; no score.

    QUESTIONS is a set of VQA, or the medical chat's. What the answers' file holds already is not
    asked again.

    For example:

    galen evaluate answer test.json --images images --out answers.jsonl
    """
    from evaluation.answering import Decoding
    from evaluation.chat_items import is_chat_file, read_chat_items
    from evaluation.running import Questions, ask
    from evaluation.vqa_items import read_items

    is_chat = is_chat_file(questions_file)
    items = (
        [item.asked for item in read_chat_items(questions_file)]
        if is_chat
        else read_items(questions_file)
    )
    questions = Questions("", items[:limit], images)
    decoding = Decoding(temperature=temperature, max_tokens=max_tokens, seed=seed)
    endpoint = endpoint_of(url, model, key, timeout, allow_external=allow_external)

    async def asked() -> int:
        async with client_of(endpoint, at_once) as client:
            failed = await ask(questions, client, decoding, out, at_once=at_once)
        return say_failed(failed)

    raise typer.Exit(asyncio.run(asked()))


@app.command("score")
def score_command(
    *,
    gt: Annotated[Path, typer.Option(metavar="FILE", help="Questions with their answers, JSON.")],
    pred: Annotated[Path, typer.Option(metavar="FILE", help="Answers of a model, JSON lines.")],
    candidates: Candidates = None,
    as_json: Json = False,
) -> None:
    """Score answers; they belong to questions by their ids.

    For example:

    galen evaluate score --gt test.json --pred answers.jsonl
    """
    from evaluation.scoring import score
    from evaluation.vqa_items import read_answers, read_candidates, read_items

    given = None if candidates is None else read_candidates(candidates)
    scores = score(read_items(gt), read_answers(pred), given)
    if as_json:
        metrics = {name: asdict(value) for name, value in scores.estimates.items()}
        numbers = {"num_items": len(scores.verdicts), "num_unanswered": scores.num_unanswered}
        print(json.dumps(numbers | {"unknown_ids": list(scores.unknown), "metrics": metrics}))
    else:
        _print_scores(scores)
    if scores.unknown:
        say(f"{len(scores.unknown)} answers belong to no question: {scores.unknown[0]!r}, ...")
    if scores.num_unanswered:
        say(f"{scores.num_unanswered} questions have no answer; they count as wrong")
        raise typer.Exit(EXIT_INCOMPLETE)


app.command("judge")(judge_command)
app.command("chat")(chat_command)
app.command("report")(report_command)


@app.command("compare")
def compare_command(
    first: Annotated[Path, typer.Argument(help="A run's folder, or its receipt.")],
    second: Annotated[Path, typer.Argument(help="Another one's.")],
    *,
    changed_model: Annotated[
        bool,
        typer.Option(
            "--changed-model", help="Both name one model, and what differs of it is compared."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Print how much the second run is better, and whether that may be chance.

    Refused where they were not asked the same questions in the same way, one is incomplete, or
    both name one model whose weights, template or image recipe are others. What else differs is
    said.

    For example:

    galen evaluate compare evaluations/vqa-rad-before evaluations/vqa-rad-after
    """
    from evaluation.receipt import compare, read_receipt, what_differs
    from evaluation.tables import aligned, difference_rows
    from services.endpoint_client.identity import short

    receipts = read_receipt(first), read_receipt(second)
    found = compare(*receipts, is_changed_model=changed_model)
    others = what_differs(*receipts)
    if as_json:
        metrics = {name: asdict(value) for name, value in found.items()}
        print(json.dumps({"metrics": metrics, "differs": others}))
        return
    for name, (before, after) in others.items():
        say(f"{name}: {short(before)}, then {short(after)}")
    header = ["metric", "version", "difference", "95 % interval", "p", "n"]
    print(aligned(header, difference_rows(found)))


@app.command("benchmarks")
def benchmarks_command() -> None:
    """List the benchmarks, and where their files are looked for."""
    from evaluation.benchmarks import BENCHMARKS
    from evaluation.tables import aligned

    rows = [
        [name, found.title, found.questions.format(split="SPLIT"), found.images]
        for name, found in BENCHMARKS.items()
    ]
    rows.append(["chat", "Judged medical chat", "--questions of `galen evaluate chat`", "images"])
    print(aligned(["name", "", "questions", "images"], rows))


def _write_questions(questions: "Questions", file: Path) -> None:
    from evaluation.distributed import write_questions

    write_questions(questions, file)
    say(f"{file} holds {len(questions.items)} questions of {questions.benchmark}")


def _run(
    questions: "Questions",
    endpoint: "Endpoint",
    decoding: "Decoding",
    folder: Path,
    at_once: int | None,
    *,
    is_new: bool,
) -> int:
    from evaluation.distributed import run_distributed
    from evaluation.run_folder import ANSWERS_FILE, REPORT_FILE, open_run
    from evaluation.running import ask, finish, identity_of

    async def begun() -> tuple[dict[str, Any], dict[str, Any]]:
        async with client_of(endpoint, 1) as client:
            told = await client.model_as_told()
        identity = identity_of(questions, endpoint.model, told, decoding)
        if open_run(folder, identity, is_new=is_new):
            say(f"{folder} is there; what it has answers to is not asked again")
        return told, identity

    async def asked(at_once: int) -> Mapping[str, str]:
        async with client_of(endpoint, at_once) as client:
            answers = folder / ANSWERS_FILE
            return await ask(questions, client, decoding, answers, at_once=at_once)

    with no_other_run():
        told, identity = asyncio.run(begun())
    if at_once is None:
        failed = run_distributed(questions, endpoint, decoding, folder)
    else:
        failed = asyncio.run(asked(at_once))
    done = finish(questions, identity, told, folder, failed)
    _print_scores(done.scores)
    say(f"{folder / REPORT_FILE} is written")
    return say_failed(done.failed)


def _print_scores(scores: "Scores") -> None:
    from evaluation.tables import aligned, kind_rows, metric_rows

    print(aligned(["metric", "version", "%", "95 % interval", "n"], metric_rows(scores.estimates)))
    print()
    print(aligned(["", "type", "%", "95 % interval", "n"], kind_rows(scores.verdicts)))


def main(arguments: Sequence[str]) -> None:
    """Run a command line and end the process."""
    from services.endpoint_client.client import EndpointError
    from services.endpoint_client.record_file import RecordFileError

    mistakes = (EvaluationError, EndpointError, RecordFileError)
    try:
        run_tool(
            app,
            "galen evaluate",
            with_default(app, _RUN, arguments),
            mistakes=mistakes,
            extra="evaluation",
            when_stopped="the same command goes on",
        )
    except KeyboardInterrupt:
        say("stopped; the same command goes on")
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main(sys.argv[1:])
