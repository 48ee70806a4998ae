"""One contract for five engines, and for the four real ones: what plain `generate` says.

fake, transformers and transformers on two ranks run where vLLM is not installed (`.venv`); vLLM
and vLLM on two ranks where it is (`.venv-vllm`), the latter with `--long`. An engine that starts
slowly starts once for all its checks.
"""

import json
import random
import shutil
from collections.abc import AsyncIterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from modeling.tiny import make_tiny_llava
from services.protocol.messages import Failed, Finished
from services.worker.engines.base import EngineJob
from services.worker.engines.registry import build_engine
from services.worker.settings import WorkerSettings
from tests.support.interruption import assert_answers_survive_a_kill, real_stack
from tests.worker.engine_contract import CHECKS, mixed_jobs
from tests.worker.engine_harness import (
    PROMPTS,
    EngineFactory,
    Recorded,
    Running,
    job,
    picture,
    running,
)
from tests.worker.generate_reference import Reference
from tests.worker.shared_engine import EngineHost

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOTS = 16
CONCURRENT = 64
STORM = 200
TOLERANCE = 1e-3
# Steps that end between an abort and the last one without the request that waited for the slot: the
# step that runs cannot be left. vLLM's runs in another process, which may be one step ahead of us.
STEPS_TO_FREE_A_SLOT = {"transformers": 1, "vllm": 2}

ENGINES: dict[str, dict[str, Any]] = {
    "fake": {"engine": "fake", "context_length": 300},
    "transformers": {"engine": "transformers", "num_threads": 2},
    "transformers-tp2": {
        "engine": "transformers", "num_threads": 1, "tensor_parallel_size": 2,
    },
    "vllm": {"engine": "vllm", "num_threads": 2},
    "vllm-tp2": {"engine": "vllm", "num_threads": 1, "tensor_parallel_size": 2},
}  # fmt: skip
START_IS_CHEAP = {"fake", "transformers"}
IS_LONG = {"vllm-tp2"}
HERE = [name for name in ENGINES if name.startswith("vllm") == (find_spec("vllm") is not None)]
PARAMS = [pytest.param(name, marks=pytest.mark.long if name in IS_LONG else ()) for name in HERE]


def settings_of(name: str, checkpoint: Path) -> WorkerSettings:
    more = {} if name == "fake" else {"model_path": checkpoint, "dtype": "float32"}
    common = {"model_id": "tiny", "slots": SLOTS, "device": "cpu", "kv_cache_gib": 1}
    return WorkerSettings(**{**common, **more, **ENGINES[name]})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llava(tmp_path_factory.mktemp("llava") / "tiny-llava")


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Reference:
    return Reference(checkpoint)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=PARAMS)
async def make_engine(
    request: pytest.FixtureRequest, checkpoint: Path
) -> AsyncIterator[EngineFactory]:
    settings = settings_of(request.param, checkpoint)
    if request.param in START_IS_CHEAP:
        yield lambda: build_engine(settings)
        return
    host = EngineHost(build_engine(settings))
    await host.start()
    yield host.shared
    await host.close()


@pytest_asyncio.fixture(loop_scope="module")
async def engine(make_engine: EngineFactory) -> AsyncIterator[Running]:
    """One of the engines, started."""
    async with running(make_engine) as started:
        yield started


only_real_engines = pytest.mark.parametrize(
    "make_engine", [param for param in PARAMS if "fake" not in param.values], indirect=True
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_keeps_the_engine_contract(check: Any, make_engine: EngineFactory) -> None:
    await check(make_engine)


# ---------------------------------------------------------------- the real ones, and `generate`


@only_real_engines
async def test_greedy_tokens_are_those_of_generate(engine: Running, reference: Reference) -> None:
    jobs = [
        job("text", max_tokens=40),
        job("image", images=[picture(1)], max_tokens=40),
        job("images", PROMPTS[1], [picture(2), picture(3, 90, 40)], max_tokens=40),
    ]
    for each in jobs:  # alone
        (recorded,) = await engine.run(each)
        assert recorded.token_ids == reference.generate(each)
    mixed = mixed_jobs(images=2) + [job(f"more-{n}", "x" * n, max_tokens=40) for n in range(5)]
    for each, recorded in zip(mixed, await engine.run(*mixed), strict=True):
        assert recorded.token_ids == reference.generate(each)


@only_real_engines
async def test_log_probabilities_are_those_of_the_model(
    engine: Running, reference: Reference
) -> None:
    jobs = [
        job("text", logprobs=3),
        job("image", images=[picture(3)], logprobs=3),
        job("sampled", PROMPTS[2], [picture(4)], logprobs=3, temperature=0.7, seed=3),
    ]
    for each, recorded in zip(jobs, await engine.run(*jobs), strict=True):
        expected = reference.log_probabilities(each, recorded.token_ids)
        entries = [entry for event in recorded.tokens for entry in event.logprobs or ()]
        for row, entry in zip(expected, entries, strict=True):
            assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=TOLERANCE)
            assert [i for i, _, _ in entry.top] == row.topk(3).indices.tolist()
            values = [value for _, _, value in entry.top]
            assert values == pytest.approx(row.topk(3).values.tolist(), abs=TOLERANCE)


@only_real_engines
async def test_a_stop_string_cuts_the_text_of_generate(
    engine: Running, reference: Reference
) -> None:
    sent = job("whole", images=[picture(5)], max_tokens=40)
    token_ids = reference.generate(sent)
    text = reference.text_of(token_ids)
    for place in range(4, len(text) - 2, 7):
        stop = text[place : place + 3]
        (cut,) = await engine.run(
            job(f"cut-{place}", images=[picture(5)], max_tokens=40, stop=[stop])
        )
        assert cut.text == text[: text.index(stop)]
        assert cut.finished.finish_reason == "stop"
        assert cut.token_ids == token_ids[: len(cut.token_ids)]


def with_stop_strings(checkpoint: Path, out: Path, stops: object) -> Path:
    """The same weights, and a generation_config.json that names stop strings."""
    shutil.copytree(checkpoint, out)
    file = out / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "stop_strings": stops}))
    return out


@pytest.mark.parametrize("name", [name for name in HERE if name in ("transformers", "vllm")])
async def test_a_checkpoints_own_stop_strings_end_its_answers(
    name: str, checkpoint: Path, reference: Reference, tmp_path: Path
) -> None:
    whole_job = job("whole", images=[picture(5)], max_tokens=40)
    token_ids = reference.generate(whole_job)
    whole = reference.text_of(token_ids)
    own, asked = whole[18:21], whole[9:12]
    assert whole.index(asked) < whole.index(own)
    scored: dict[str, Any] = {"images": [picture(5)], "max_tokens": 40, "logprobs": 2}
    fillers = [f"{n} not there" for n in range(3)]
    stopping = with_stop_strings(checkpoint, tmp_path / "stopping", [own])
    async with running(lambda: build_engine(settings_of(name, stopping))) as engine:
        plain, four, *choices = await engine.run(
            job("plain", **scored),
            job("four", **scored, stop=[*fillers, asked]),
            *(job(f"choice-{n}", **scored, stop=[*fillers, "nor this"]) for n in range(2)),
        )
        for recorded, stop in ((plain, own), (four, asked), *((each, own) for each in choices)):
            assert recorded.text == whole[: whole.index(stop)]
            assert recorded.finished.finish_reason == "stop"
            assert recorded.token_ids == token_ids[: len(recorded.token_ids)]
            assert recorded.finished.completion_tokens == len(recorded.token_ids)
            entries = [entry for event in recorded.tokens for entry in event.logprobs or ()]
            assert [entry.token_id for entry in entries] == recorded.token_ids
        cuts = range(len(plain.token_ids) + 1)
        resumed = await engine.run(
            *(
                job(f"from-{n}", **scored, resume_token_ids=plain.token_ids[:n], attempt=2)
                for n in cuts
            )
        )
        for num_shown, rest in zip(cuts, resumed, strict=True):
            assert rest.token_ids == plain.token_ids[num_shown:]
            assert "".join(plain.texts[:num_shown]) + rest.text == plain.text
            assert rest.finished.finish_reason == "stop"
        schema = json.dumps({"type": "object", "properties": {"x": {"const": own}},
                             "required": ["x"], "additionalProperties": False})  # fmt: skip
        (guided,) = await engine.run(job("guided", json_schema=schema, max_tokens=60))
        assert json.loads(guided.text) == {"x": own}  # the grammar says where it ends


# -------------------------------------------------------- the real ones, and one another's answers


def is_over(recorded: Recorded) -> bool:
    return bool(recorded.events) and isinstance(recorded.events[-1], Finished | Failed)


def sampled_jobs() -> list[EngineJob]:
    """All that acts on the choice of tokens, with a seed each."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.7},
        {"temperature": 1.3, "top_p": 0.8},
        {"top_k": 7, "presence_penalty": 1.5},
        {"frequency_penalty": -0.8, "repetition_penalty": 1.2},
        {"stop": ["a"]},
    ]
    return [
        job(
            f"sampled-{n}", PROMPTS[n % 4], [picture(k) for k in range(n % 3)],
            **{"temperature": 1.0, "seed": n, "max_tokens": 30, **kind},
        )
        for n, kind in enumerate(kinds)
    ]  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sampled_answers(checkpoint: Path) -> Sequence[Recorded]:
    """What the transformers engine answers to `sampled_jobs`, one after the other."""
    settings = settings_of("transformers", checkpoint)
    async with running(lambda: build_engine(settings)) as started:
        return [(await started.run(each))[0] for each in sampled_jobs()]


@only_real_engines
async def test_a_seed_gives_every_engine_the_same_answer(
    engine: Running, sampled_answers: Sequence[Recorded]
) -> None:
    for ours, theirs in zip(await engine.run(*sampled_jobs()), sampled_answers, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert ours.texts == theirs.texts
        assert ours.finished.finish_reason == theirs.finished.finish_reason
        assert ours.finished.prompt_tokens == theirs.finished.prompt_tokens


@only_real_engines
async def test_choices_of_one_request_are_answers_of_their_own(engine: Running) -> None:
    """A request with `n` reaches an engine as n requests, with a seed each (`translate.py`)."""
    sampled = [
        job(f"choice-{n}", images=[picture(1)], temperature=1.0, seed=100 + n) for n in range(4)
    ]
    greedy = [job(f"greedy-{n}", images=[picture(1)]) for n in range(2)]
    recorded = await engine.run(*sampled, *greedy)
    answers = [tuple(each.token_ids) for each in recorded]
    assert len(set(answers[:4])) == 4
    assert len(set(answers[4:])) == 1


@only_real_engines
async def test_nothing_that_the_checks_skip_is_missing(engine: Running) -> None:
    """`engine_contract` asks an engine's card first what it can do."""
    assert {"logprobs", "min_tokens", "response_format", "seed", "n"} <= engine.card.parameters
    assert {"greedy", "sampling", "logprobs", "guided"} <= engine.card.resumes


@only_real_engines
async def test_an_answer_that_another_engine_began_goes_on_as_it_would_have(
    engine: Running, sampled_answers: Sequence[Recorded]
) -> None:
    begun = zip(sampled_jobs(), sampled_answers, strict=True)
    shown = [(each, whole, len(whole.token_ids) // 2) for each, whole in begun]
    resumed = [
        EngineJob(
            msgspec.structs.replace(
                each.request, attempt=2, resume_token_ids=tuple(whole.token_ids[:num_shown])
            ),
            each.images,
        )
        for each, whole, num_shown in shown
    ]
    for rest, (_, whole, num_shown) in zip(await engine.run(*resumed), shown, strict=True):
        assert rest.token_ids == whole.token_ids[num_shown:]
        assert rest.text == "".join(whole.texts[num_shown:])


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", [name for name in HERE if name.endswith("-tp2")])
async def test_answers_of_two_ranks_go_on_where_a_kill_cut_them(
    name: str, checkpoint: Path, tmp_path: Path
) -> None:
    """Of one: tests/faults/test_real_engine_killed.py and tests/vllm/test_vllm_killed.py."""
    stack = real_stack(
        tmp_path, ENGINES[name]["engine"], checkpoint, KV_CACHE_GIB="1", TENSOR_PARALLEL_SIZE="2"
    )
    async with stack:
        await assert_answers_survive_a_kill(stack)


# ------------------------------------------------------------------------------------ in a crowd


async def alone(engine: Running, sent: EngineJob, reference: Reference) -> list[int]:
    """The answer to nobody else's disturbance: of the fake engine its own, else `generate`'s."""
    if engine.card.engine != "fake":
        return reference.generate(sent)
    request = msgspec.structs.replace(sent.request, request_id=f"{sent.request.request_id}-alone")
    (recorded,) = await engine.run(EngineJob(request, sent.images))
    return recorded.token_ids


@only_real_engines
async def test_an_abort_frees_the_slot_within_a_step(engine: Running) -> None:
    holders = [f"holder-{n}" for n in range(SLOTS)]
    engine.submit(*(job(name, max_tokens=1500, min_tokens=1500) for name in holders))
    await engine.until(lambda: all(engine.of(name).token_ids for name in holders))
    engine.submit(job("waiting"))
    other = engine.of(holders[1])
    said = len(other.token_ids)
    await engine.until(lambda: len(other.token_ids) >= said + 10)
    assert engine.of("waiting").events == []
    engine.engine.abort(holders[0])
    aborted = len(engine.progress.log)
    await engine.until(lambda: bool(engine.of("waiting").events))
    log = engine.progress.log
    admitted = max(n for n, (what, *names) in enumerate(log) if "waiting" in names)
    steps = log[aborted:admitted].count(("step_done",))
    assert steps <= STEPS_TO_FREE_A_SLOT[engine.card.engine]


@only_real_engines  # the fake one answers faster than it can be interrupted
async def test_a_storm_of_cancellations_leaves_no_trace(
    engine: Running, reference: Reference
) -> None:
    chance = random.Random(5)
    waiting = [
        job(f"storm-{n}", PROMPTS[n % 4], [picture(n)] * (n % 2), max_tokens=200)
        for n in range(STORM)
    ]
    under_way: list[str] = []
    while waiting or under_way:
        if waiting and chance.random() < 0.6:
            sent = waiting.pop()
            engine.submit(sent)
            under_way.append(sent.request.request_id)
        elif under_way:
            engine.engine.abort(under_way.pop(chance.randrange(len(under_way))))
        if chance.random() < 0.1:  # some of them get as far as a token
            num_steps = len(engine.progress.log)
            await engine.until(
                lambda before=num_steps: (
                    len(engine.progress.log) > before
                    or all(is_over(engine.of(request_id)) for request_id in under_way)
                )
            )
    asked = [job(f"after-{n}", PROMPTS[n], [picture(n)]) for n in range(4)]
    said = {n: len(engine.of(f"storm-{n}").events) for n in range(STORM)}
    for each, recorded in zip(asked, await engine.run(*asked), strict=True):
        assert recorded.token_ids == await alone(engine, each, reference)
    assert said == {n: len(engine.of(f"storm-{n}").events) for n in range(STORM)}
    ended = [
        n for n in said if any(isinstance(e, Finished) for e in engine.of(f"storm-{n}").events)
    ]
    assert len(ended) < STORM // 4, "the storm was no storm"
    assert any(said.values()), "nothing of it ran"


async def test_sixty_four_requests_at_once_are_answered_as_if_alone(
    engine: Running, reference: Reference
) -> None:
    kinds = [job("kind", PROMPTS[n % 4], [picture(n)] * (n % 3), max_tokens=32) for n in range(8)]
    expected = [await alone(engine, kind, reference) for kind in kinds]
    jobs = [
        job(
            f"crowd-{n}", PROMPTS[n % 8 % 4], [picture(n % 8)] * (n % 8 % 3),
            max_tokens=1 + n // 2,
        )
        for n in range(CONCURRENT)
    ]  # fmt: skip
    for n, recorded in enumerate(await engine.run(*jobs)):
        assert recorded.token_ids == expected[n % 8][: 1 + n // 2]
