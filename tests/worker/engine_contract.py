"""What every engine must do, whatever runs inside it.

Each check is a coroutine function that takes a factory of fresh, unstarted engines; `CHECKS` lists
them all, for `pytest.mark.parametrize`. They use nothing but the `Engine` interface, so a check
that one engine cannot pass is a defect of that engine. Greedy answers to the first of `PROMPTS`
should have eight characters and 16 tokens at least.
"""

import asyncio
import json
import math
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from services.protocol.errors import ErrorCode
from services.protocol.messages import Failed, Finished
from services.worker.engines.base import EngineJob
from tests.worker.engine_harness import (
    PROMPTS,
    WAIT_S,
    EngineFactory,
    Recorded,
    Running,
    job,
    picture,
    running,
)


def mixed_jobs(images: int) -> list[EngineJob]:
    """Short and long answers and prompts, with no, one and several images."""
    return [
        job(
            f"mixed-{number}",
            text,
            [picture(number * 7 + k, 60 + 9 * number) for k in range(min(number, images))],
            max_tokens=9 + 5 * number,
        )
        for number, text in enumerate(PROMPTS)
    ]


async def check_one_good_end_per_request(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        jobs = mixed_jobs(min(2, started.card.max_images))
        for recorded, sent in zip(await started.run(*jobs), jobs, strict=True):
            finished = recorded.finished
            assert sum(isinstance(e, Finished | Failed) for e in recorded.events) == 1
            assert finished.completion_tokens == len(recorded.token_ids) == len(recorded.texts)
            assert sent.request.sampling.max_tokens is not None
            assert 1 <= finished.completion_tokens <= sent.request.sampling.max_tokens
            assert finished.prompt_tokens > 0
            assert finished.prefill_s >= 0.0


async def check_indexes_count_the_answer(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        (recorded,) = await started.run(job("a"))
        expected = 0
        for event in recorded.tokens:
            assert event.index == expected
            assert len(event.token_ids) == len(event.texts)
            expected += len(event.token_ids)


async def check_emits_on_the_loop_thread(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        await started.run(job("a"))
        assert started.threads == {threading.get_ident()}


async def check_progress_names_requests_before_they_speak(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        await started.run(job("a"), job("b"))
        admitted = {i for entry in started.progress.log if entry[0] == "admitting" for i in entry}
        assert {"a", "b"} <= admitted
        assert ("step_done",) in started.progress.log


async def check_greedy_is_the_same_alone_and_in_a_batch(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        jobs = mixed_jobs(min(2, started.card.max_images))
        alone = [(await started.run(each))[0].token_ids for each in jobs]
    async with running(make_engine) as started:
        together = await started.run(*jobs)
        assert [recorded.token_ids for recorded in together] == alone


async def check_greedy_is_the_same_while_others_join_and_leave(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        (alone,) = await started.run(job("alone", max_tokens=40))
        started.submit(job("first", PROMPTS[1], max_tokens=3), job("long", max_tokens=40))
        for number in range(4):
            wanted = 2 * number + 2
            long = started.of("long")
            await started.until(lambda long=long, wanted=wanted: _said(long, wanted))
            started.submit(job(f"late-{number}", PROMPTS[number], max_tokens=number + 1))
        (long,) = await started.ends("long")
        await started.ends("first", *(f"late-{number}" for number in range(4)))
        assert long.token_ids == alone.token_ids
        assert long.text == alone.text


async def check_a_seed_repeats_its_answer(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        first, again, _ = await started.run(
            job("a", temperature=1.0, seed=7),
            job("b", temperature=1.0, seed=7),
            job("c", temperature=1.0, seed=8),
        )
        assert first.token_ids == again.token_ids
        assert first.text == again.text


async def check_max_tokens_ends_an_answer(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        for wanted in (1, 2, 5):
            (recorded,) = await started.run(job(f"m{wanted}", max_tokens=wanted))
            assert recorded.finished.finish_reason == "length"
            assert len(recorded.token_ids) == wanted


async def check_a_stop_string_cuts_before_itself(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        (whole,) = await started.run(job("whole"))
        middle = len(whole.text) // 2
        stop = whole.text[middle : middle + 3]
        (cut,) = await started.run(job("cut", stop=[stop]))
        assert cut.finished.finish_reason == "stop"
        assert cut.text == whole.text[: whole.text.index(stop)]
        assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
        (absent,) = await started.run(job("absent", stop=[whole.text[-2:] + "\x00\x00"]))
        assert absent.text == whole.text


async def check_an_answer_continues_from_any_token(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        kinds: dict[str, dict[str, Any]] = {"greedy": {}}
        if "sampling" in started.card.resumes:
            kinds["sampling"] = {"temperature": 1.0, "seed": 11}
        for kind, sampling in kinds.items():
            await _check_continues(started, kind, {**sampling, "max_tokens": 16})
            end = started.of(f"{kind}-whole").text[-4:-2]
            await _check_continues(started, f"{kind}-stop", {**sampling, "stop": [end]})


async def _check_continues(started: Running, name: str, sampling: dict[str, Any]) -> None:
    (whole,) = await started.run(job(f"{name}-whole", **sampling))
    cuts = [whole.token_ids[:taken] for taken in range(len(whole.token_ids) + 1)]
    resumed = await started.run(
        *(job(f"{name}-{len(cut)}", resume_token_ids=cut, attempt=2, **sampling) for cut in cuts)
    )
    for taken, rest in enumerate(resumed):
        assert rest.token_ids == whole.token_ids[taken:]
        assert "".join(whole.texts[:taken]) + rest.text == whole.text
        assert all(event.attempt == 2 for event in rest.events)
        if rest.tokens:
            assert rest.tokens[0].index == taken
        assert rest.finished.finish_reason == whole.finished.finish_reason
        assert rest.finished.completion_tokens == whole.finished.completion_tokens
        assert rest.finished.prompt_tokens == whole.finished.prompt_tokens


async def check_an_aborted_request_says_nothing_more(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        (undisturbed,) = await started.run(job("undisturbed"))
        started.submit(job("dropped", PROMPTS[1], max_tokens=200), job("kept"))
        await started.until(lambda: _said(started.of("dropped"), 2))
        started.engine.abort("dropped")
        said = len(started.of("dropped").events)
        (kept,) = await started.ends("kept")
        await started.run(job("later"))
        assert len(started.of("dropped").events) == said
        assert kept.token_ids == undisturbed.token_ids


async def check_a_request_aborted_at_once_says_nothing(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        started.submit(job("dropped"), job("kept"))
        started.engine.abort("dropped")
        started.engine.abort("never submitted")
        await started.ends("kept")
        await started.run(job("later"))
        assert started.of("dropped").events == []


async def check_too_long_a_prompt_fails_alone(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        context = started.card.context_length
        long, greedy, kept = await started.run(
            job("long", "word " * (context + 10)),
            job("greedy", max_tokens=context),
            job("kept"),
        )
        for recorded in (long, greedy):
            assert recorded.events == [recorded.failed]
            assert recorded.failed.code == ErrorCode.CONTEXT_LENGTH_EXCEEDED
            assert recorded.failed.param == "messages"
            assert str(context) in recorded.failed.message
            assert "word" not in recorded.failed.message
        assert kept.finished.completion_tokens > 0


async def check_max_tokens_may_be_left_out(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        (recorded,) = await started.run(job("a", max_tokens=None, stop=[" "]))
        finished = recorded.finished
        assert finished.prompt_tokens + finished.completion_tokens <= started.card.context_length


async def check_close_ends_quietly_with_work_in_hand(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        started.submit(*(job(f"r{number}", max_tokens=200) for number in range(6)))
        await started.until(lambda: _said(started.of("r0"), 1))
        async with asyncio.timeout(WAIT_S):
            await started.engine.close()
        said = sum(len(started.of(f"r{number}").events) for number in range(6))
        await asyncio.sleep(0)
        assert sum(len(started.of(f"r{number}").events) for number in range(6)) == said


async def check_logprobs_go_with_every_token(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        if "logprobs" not in started.card.parameters:
            return
        (recorded,) = await started.run(job("a", logprobs=3))
        for event in recorded.tokens:
            assert event.logprobs is not None
            assert [entry.token_id for entry in event.logprobs] == event.token_ids
            for entry in event.logprobs:
                values = [value for _, _, value in entry.top]
                assert len(values) == 3
                assert values == sorted(values, reverse=True)
                assert entry.logprob <= 0.0
        (without,) = await started.run(job("b"))
        assert all(event.logprobs is None for event in without.tokens)
        assert without.token_ids == recorded.token_ids


SCHEMA = {
    "type": "object",
    "properties": {
        "side": {"enum": ["left", "right"]},
        "seen": {"type": "boolean"},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["side", "seen", "count"],
    "additionalProperties": False,
}
"""Bounded: a random model may never close a free string."""


def _obeys(text: str) -> bool:
    found = json.loads(text)
    return (
        set(found) == {"side", "seen", "count"}
        and found["side"] in ("left", "right")
        and isinstance(found["seen"], bool)
        and 0 <= found["count"] <= 99
    )


async def check_a_schema_is_obeyed(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        if "response_format" not in started.card.parameters:
            return
        schema = json.dumps(SCHEMA)
        (free_alone,) = await started.run(job("free-alone"))
        greedy, sampled, held, seen, scored, free, bad = await started.run(
            job("greedy", json_schema=schema, max_tokens=200),
            job("sampled", json_schema=schema, max_tokens=200, temperature=1.0, seed=3),
            job("held", json_schema=schema, max_tokens=200, min_tokens=150),
            job("seen", PROMPTS[1], [picture(3)], json_schema=schema, max_tokens=200),
            job("scored", json_schema=schema, max_tokens=200, logprobs=3),
            job("free"),
            job("bad", json_schema='{"type": "no such type"}'),
        )
        for recorded in (greedy, sampled, held, seen):  # a whole answer ends, `min_tokens` or not
            assert recorded.finished.finish_reason == "stop"
            assert _obeys(recorded.text)
        assert scored.token_ids == greedy.token_ids
        _check_guided_logprobs(scored)
        assert free.token_ids == free_alone.token_ids
        assert bad.events == [bad.failed]
        assert bad.failed.code == ErrorCode.INVALID_VALUE
        assert bad.failed.param == "response_format"


def _check_guided_logprobs(scored: Recorded) -> None:
    """Whether they are those before or after the mask is the engine's choice; JSON takes them."""
    entries = [entry for event in scored.tokens for entry in event.logprobs or ()]
    assert [entry.token_id for entry in entries] == scored.token_ids
    for entry in entries:
        values = [value for _, _, value in entry.top]
        assert all(math.isfinite(value) and value <= 0.0 for value in (entry.logprob, *values))


async def check_a_guided_answer_continues(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        if "response_format" not in started.card.parameters:
            return
        assert "guided" in started.card.resumes
        guided = {"json_schema": json.dumps(SCHEMA), "max_tokens": 200}
        await _check_continues(started, "guided", guided)
        await _check_continues(started, "drawn", {**guided, "temperature": 1.0, "seed": 4})
        await _check_continues(started, "held", {**guided, "min_tokens": 150})


async def check_min_tokens_holds_the_end_back(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        if "min_tokens" not in started.card.parameters:
            return
        (whole,) = await started.run(job("whole"))
        stop = whole.text[4:6]
        first, held = await started.run(
            job("first", stop=[stop]), job("held", stop=[stop], min_tokens=20)
        )
        assert first.finished.completion_tokens < 20 <= held.finished.completion_tokens
        assert held.token_ids == whole.token_ids[: len(held.token_ids)]


async def check_a_bias_moves_the_choice(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        (plain,) = await started.run(job("plain"))
        first = plain.token_ids[0]
        (banned, forced, unknown) = await started.run(
            job("banned", logit_bias=[(first, -100.0)]),
            job("forced", logit_bias=[(first, 100.0)], max_tokens=4),
            job("unknown", logit_bias=[(2**31, 1.0)]),
        )
        assert unknown.failed.code == "invalid_value"
        assert unknown.failed.param == "logit_bias"
        if started.card.engine != "fake":  # its answer is always the same
            assert first not in banned.token_ids
            assert set(forced.token_ids) == {first}


async def check_a_raw_text_is_continued_without_a_template(make_engine: EngineFactory) -> None:
    async with running(make_engine) as started:
        raw = msgspec.structs.replace(job("raw").request, is_raw=True)
        (templated, bare) = await started.run(job("templated"), EngineJob(raw, ()))
        assert bare.finished.prompt_tokens > 0
        if started.card.engine != "fake":  # to it a prompt is its words
            assert bare.finished.prompt_tokens < templated.finished.prompt_tokens
            assert bare.token_ids != templated.token_ids


def _said(recorded: Recorded, num_tokens: int) -> bool:
    ended = recorded.events and isinstance(recorded.events[-1], Finished | Failed)
    return bool(ended) or len(recorded.token_ids) >= num_tokens


CHECKS: tuple[Callable[[EngineFactory], Awaitable[None]], ...] = (
    check_one_good_end_per_request,
    check_indexes_count_the_answer,
    check_emits_on_the_loop_thread,
    check_progress_names_requests_before_they_speak,
    check_greedy_is_the_same_alone_and_in_a_batch,
    check_greedy_is_the_same_while_others_join_and_leave,
    check_a_seed_repeats_its_answer,
    check_max_tokens_ends_an_answer,
    check_a_stop_string_cuts_before_itself,
    check_an_answer_continues_from_any_token,
    check_an_aborted_request_says_nothing_more,
    check_a_request_aborted_at_once_says_nothing,
    check_too_long_a_prompt_fails_alone,
    check_max_tokens_may_be_left_out,
    check_close_ends_quietly_with_work_in_hand,
    check_logprobs_go_with_every_token,
    check_a_schema_is_obeyed,
    check_a_guided_answer_continues,
    check_min_tokens_holds_the_end_back,
    check_a_bias_moves_the_choice,
    check_a_raw_text_is_continued_without_a_template,
)
