"""The vLLM engine keeps the contract, and says what transformers says, to the token."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import pytest_asyncio
from transformers import AutoProcessor

from modeling.checkpoint_files import open_checkpoint
from modeling.finite_weights import refuse_non_finite
from modeling.tiny import make_tiny_llava
from services.protocol.errors import ErrorCode
from services.protocol.messages import Failed, ImagePart, ImageRecipe, Message, TextPart
from services.worker.engines.base import Engine, EngineJob
from services.worker.engines.chat_prompt import PromptBuilder
from services.worker.engines.registry import build_engine
from services.worker.engines.transformers_engine import TransformersEngine
from services.worker.settings import WorkerSettings
from tests.vllm.checkpoints import one_layer_projector, overflowing_on_images
from tests.vllm.conftest import vllm_engine
from tests.worker.engine_contract import mixed_jobs
from tests.worker.engine_harness import PROMPTS, Recorded, image_ref, job, picture, running
from tests.worker.generate_reference import generate
from tests.worker.shared_engine import EngineHost
from tests.worker.test_transformers_engine import with_messages

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "side": {"enum": ["left", "right"]}},
        "required": ["ok", "side"],
        "additionalProperties": False,
    }
)

SHORT = {"context_length": 512, "max_images": 16}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(tiny_llava: Path) -> AsyncIterator[EngineHost]:
    host = EngineHost(vllm_engine(tiny_llava))
    await host.start()
    yield host
    await host.close()


def conversation() -> EngineJob:
    """Two images in two turns, a system message, and text that looks like special tokens."""
    images = (picture(1), picture(2, 90, 40))
    first, second = (ImagePart(image_ref(image)) for image in images)
    messages = (
        Message("system", (TextPart("Be brief."),)),
        Message("user", (TextPart("Before "), first, TextPart(" and <image> after.</s>"))),
        Message("assistant", (TextPart("A bright lesion."),)),
        Message("user", (second, TextPart("And here?"))),
    )
    return with_messages(job("turns", logprobs=4), messages, images)


def varied_jobs() -> list[EngineJob]:
    """All that acts on the choice of tokens, on prompts with and without images."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.7, "seed": 1},
        {"temperature": 1.3, "top_p": 0.8, "seed": 2},
        {"temperature": 1.0, "top_k": 7, "seed": 3, "presence_penalty": 1.5},
        {"temperature": 0.9, "seed": 4, "frequency_penalty": -0.8, "repetition_penalty": 1.2},
        {"repetition_penalty": 1.3},
        {"frequency_penalty": 0.9, "presence_penalty": 0.4},
        {"stop": ["a"], "temperature": 1.0, "seed": 5},
        {"logprobs": 5, "temperature": 1.0, "seed": 6},
    ]
    jobs = [
        job(f"kind-{n}", PROMPTS[n % 4], [picture(k) for k in range(n % 3)], **kind)
        for n, kind in enumerate(kinds)
    ]
    return [*jobs, conversation()]


def assert_same(ours: Recorded, theirs: Recorded) -> None:
    assert ours.token_ids == theirs.token_ids
    assert ours.texts == theirs.texts
    assert ours.finished.prompt_tokens == theirs.finished.prompt_tokens
    assert ours.finished.finish_reason == theirs.finished.finish_reason
    for mine, other in zip(logprobs(ours), logprobs(theirs), strict=True):
        assert mine.token_id == other.token_id
        assert mine.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert [i for i, _, _ in mine.top] == [i for i, _, _ in other.top]
        np.testing.assert_allclose(
            [v for _, _, v in mine.top], [v for _, _, v in other.top], atol=1e-3
        )


def logprobs(recorded: Recorded) -> list[Any]:
    return [entry for event in recorded.tokens for entry in event.logprobs or ()]


async def test_answers_are_those_of_the_transformers_engine(
    host: EngineHost, tiny_llava: Path
) -> None:
    async with running(host.shared) as started:
        ours = await started.run(*varied_jobs())
    async with running(lambda: TransformersEngine(tiny_llava, "tiny", 16)) as started:
        theirs = await started.run(*varied_jobs())
    for mine, other in zip(ours, theirs, strict=True):
        assert_same(mine, other)


async def test_an_answer_that_transformers_began_is_continued_exactly(
    host: EngineHost, tiny_llava: Path
) -> None:
    begun = [
        each for each in varied_jobs() if each.request.request_id in ("kind-2", "kind-3", "kind-5")
    ]
    async with running(lambda: TransformersEngine(tiny_llava, "tiny", 16)) as started:
        whole = await started.run(*begun)
    resumed = [
        EngineJob(
            msgspec.structs.replace(
                each.request, attempt=2, resume_token_ids=tuple(recorded.token_ids[:7])
            ),
            each.images,
        )
        for each, recorded in zip(begun, whole, strict=True)
    ]
    async with running(host.shared) as started:
        rest = await started.run(*resumed)
    for recorded, ended in zip(whole, rest, strict=True):
        assert ended.token_ids == recorded.token_ids[7:]
        assert ended.text == "".join(recorded.texts[7:])


async def test_unexpanded_prompts_become_those_of_the_processor(tiny_llava: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny_llava, backend="pil")
    image_id = processor.tokenizer.convert_tokens_to_ids("<image>")
    builder = PromptBuilder(processor, image_id)
    for each in (*mixed_jobs(images=3), conversation()):
        short = builder.build_unexpanded(each.request.messages, each.images)
        whole = builder.build(each.request.messages, each.images).token_ids
        grown = [i for t in short for i in ([t] * (16 if t == image_id else 1))]
        assert short.count(image_id) == len(each.images)
        assert grown == whole


async def test_an_image_is_found_again_by_its_tenant_only(host: EngineHost) -> None:
    text = "word " * 60
    other = EngineJob(
        msgspec.structs.replace(
            job("c", text, [picture(71)], max_tokens=2).request, tenant_id="another"
        ),
        (picture(71),),
    )
    async with running(host.shared) as started:
        hits = [await _hits_of(started, job("a", text, [picture(71)], max_tokens=2))]
        hits.append(await _hits_of(started, job("b", text, [picture(71)], max_tokens=2)))
        hits.append(await _hits_of(started, job("d", text, [picture(72)], max_tokens=2)))
        hits.append(await _hits_of(started, other))
    first, again, other_image, other_tenant = hits
    assert first == other_image == other_tenant == 0
    assert again >= 64


async def _hits_of(started: Any, sent: EngineJob) -> int:
    before = started.engine.stats()
    await started.run(sent)
    after = started.engine.stats()
    assert after.prefix_queries > before.prefix_queries
    return after.prefix_hits - before.prefix_hits


async def test_a_json_schema_is_obeyed_greedily_and_sampled(host: EngineHost) -> None:
    async with running(host.shared) as started:
        recorded = await started.run(
            job("greedy", json_schema=SCHEMA, max_tokens=80),
            job("sampled", json_schema=SCHEMA, max_tokens=80, temperature=1.5, seed=3),
            job("image", PROMPTS[1], [picture(3)], json_schema=SCHEMA, max_tokens=80),
            job("free"),
        )
    for each in recorded[:3]:
        assert each.finished.finish_reason == "stop"
        answer = json.loads(each.text)
        assert set(answer) == {"ok", "side"}
        assert answer["side"] in ("left", "right")
    assert not recorded[3].text.startswith("{")


@pytest.mark.parametrize("bias", [100.0, -100.0])
async def test_the_first_character_chooses_between_a_text_and_json(
    host: EngineHost, tiny_llava: Path, bias: float
) -> None:
    tokenizer = AutoProcessor.from_pretrained(tiny_llava).tokenizer
    (brace,) = tokenizer.encode("{", add_special_tokens=False)
    bound = {"json_schema": SCHEMA, "may_be_text": True, "logit_bias": ((brace, bias),)}
    async with running(host.shared) as started:
        greedy, sampled = await started.run(
            job("greedy", max_tokens=80, **bound),
            job("sampled", max_tokens=80, temperature=1.2, seed=5, **bound),
        )
    async with running(lambda: TransformersEngine(tiny_llava, "tiny", 16)) as started:
        (reference,) = await started.run(job("greedy", max_tokens=80, **bound))
    for each in (greedy, sampled):
        if bias > 0:
            assert set(json.loads(each.text)) == {"ok", "side"}
        else:
            assert each.text
            assert not each.text.lstrip().startswith("{")
    assert greedy.token_ids == reference.token_ids


async def test_a_schema_that_does_not_compile_fails_alone(host: EngineHost) -> None:
    async with running(host.shared) as started:
        bad, fine = await started.run(
            job("bad", json_schema='{"type": "object", "properties": {"a": {"type": "nothing"}}}'),
            job("fine"),
        )
    assert bad.failed.code == ErrorCode.INVALID_VALUE
    assert bad.failed.param == "response_format"
    assert fine.finished.completion_tokens > 0


async def test_an_answer_under_a_schema_goes_on_where_transformers_stopped(
    host: EngineHost, tiny_llava: Path
) -> None:
    whole_job = job("whole", images=[picture(2)], json_schema=SCHEMA, max_tokens=80)
    async with running(lambda: TransformersEngine(tiny_llava, "tiny", 16)) as started:
        (whole,) = await started.run(whole_job)
    cuts = range(len(whole.token_ids) + 1)
    async with running(host.shared) as started:
        recorded = await started.run(
            *(
                job(
                    f"cut-{cut}", images=[picture(2)], json_schema=SCHEMA, max_tokens=80,
                    attempt=2, resume_token_ids=whole.token_ids[:cut],
                )
                for cut in cuts
            )
        )  # fmt: skip
    for cut, rest in zip(cuts, recorded, strict=True):
        assert rest.token_ids == whole.token_ids[cut:]
        assert rest.text == "".join(whole.texts[cut:])


async def test_resumed_tokens_that_a_schema_forbids_fail_alone_and_unseen(
    host: EngineHost, capfd: pytest.CaptureFixture[str]
) -> None:
    async with running(host.shared) as started:
        (free,) = await started.run(job("free"))
        assert not free.text.startswith("{")
        bad, fine = await started.run(
            job("bad", json_schema=SCHEMA, attempt=2, resume_token_ids=free.token_ids[:9]),
            job("fine", json_schema=SCHEMA, max_tokens=80),
        )
    assert bad.events == [bad.failed]
    assert bad.failed.code == ErrorCode.INTERNAL_ERROR
    assert json.loads(fine.text)
    printed = capfd.readouterr()
    assert "".join(free.texts[:9])[:6] not in printed.out + printed.err


async def test_min_tokens_puts_off_the_end(host: EngineHost, tiny_llava: Path) -> None:
    async with running(host.shared) as started:
        jobs = [job(f"s{n}", temperature=2.0, seed=n, max_tokens=60) for n in range(40)]
        recorded = await started.run(*jobs)
        ended = [r for r in recorded if r.finished.finish_reason == "stop"]
        assert ended, "some answer must end by itself for this test to mean anything"
        short = recorded.index(min(ended, key=lambda r: len(r.token_ids)))
        num_tokens = len(recorded[short].token_ids)
        (longer,) = await started.run(
            job("min", temperature=2.0, seed=short, max_tokens=60, min_tokens=num_tokens + 5)
        )
    assert len(longer.token_ids) >= num_tokens + 5
    assert longer.token_ids[: num_tokens - 1] == recorded[short].token_ids[:-1]


async def test_an_abort_is_no_step(host: EngineHost) -> None:
    async with running(host.shared) as started:
        started.submit(job("dropped", max_tokens=1800, min_tokens=1800))
        await started.until(lambda: bool(started.of("dropped").token_ids))
        started.engine.abort("dropped")
        aborted = len(started.progress.log)
        for _ in range(50):  # vLLM confirms it within two turns of the loop
            await asyncio.sleep(0)
        assert ("step_done",) not in started.progress.log[aborted:]


async def test_too_many_images_fail_alone(host: EngineHost) -> None:
    async with running(host.shared) as started:
        (recorded,) = await started.run(job("many", images=[picture(n) for n in range(5)]))
    assert recorded.failed.code == ErrorCode.TOO_MANY_IMAGES
    assert recorded.failed.param == "messages"


async def test_the_card_tells_the_gateway_how_to_preprocess(host: EngineHost) -> None:
    assert host.card.engine == "vllm"
    assert host.card.context_length == 2048
    assert host.card.image_recipe == ImageRecipe(56, 56, 56)
    told = host.card.provenance
    assert len(told.checkpoint_fingerprint) == len(told.template_sha256) == 64
    assert told.versions.startswith("vllm")


@pytest.fixture(scope="module")
def wide_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 tokens per image, a projector of one layer."""
    folder = tmp_path_factory.mktemp("wide")
    base = make_tiny_llava(folder / "two-layers", image_px=224)
    return one_layer_projector(base, folder / "one-layer")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def short_host(wide_checkpoint: Path) -> AsyncIterator[EngineHost]:
    """A context that is far shorter than the images that a request may have."""
    host = EngineHost(vllm_engine(wide_checkpoint, **SHORT))
    await host.start()
    yield host
    await host.close()


async def test_a_projector_of_one_layer_is_that_of_transformers(
    short_host: EngineHost, wide_checkpoint: Path
) -> None:
    jobs = [job(f"p{n}", PROMPTS[n], [picture(n)] * (n % 2)) for n in range(4)]
    async with running(short_host.shared) as started:
        recorded = await started.run(*jobs)
    assert [each.token_ids for each in recorded] == generate(wide_checkpoint, jobs)


async def test_more_images_than_a_short_context_holds_are_refused_with_the_request(
    short_host: EngineHost, wide_checkpoint: Path
) -> None:
    assert short_host.card.context_length == SHORT["context_length"]
    assert short_host.card.max_images == SHORT["max_images"]
    for make_engine in (
        short_host.shared, lambda: transformers_engine(wide_checkpoint, **SHORT)
    ):  # fmt: skip
        async with running(make_engine) as started:
            two, many, kept = await started.run(
                job("two", images=[picture(n) for n in range(2)]),
                job("many", images=[picture(n) for n in range(16)]),
                job("kept", images=[picture(1)]),
            )
        for each in (two, many):
            assert each.events == [each.failed]
            assert each.failed.code == ErrorCode.CONTEXT_LENGTH_EXCEEDED
            assert "512" in each.failed.message
        assert f"{16 * 256} image tokens" in many.failed.message
        assert kept.finished.completion_tokens > 0


def transformers_engine(path: Path, **settings: Any) -> Engine:
    common = {"engine": "transformers", "model_id": "tiny", "slots": 16, "dtype": "float32"}
    return build_engine(WorkerSettings(**{**common, "model_path": path, **settings}))


@pytest.mark.parametrize("engine", [vllm_engine, transformers_engine])
async def test_a_request_whose_logits_are_not_finite_ends_with_an_error_and_no_token(
    engine: Callable[[Path], Engine], tiny_llava: Path, tmp_path: Path
) -> None:
    """Whom vLLM gives a cache block with NaN in it may fail, too; nobody gets a wrong token."""
    path = overflowing_on_images(tiny_llava, tmp_path / "overflowing")
    refuse_non_finite(open_checkpoint(path))  # nothing that could be seen at the start
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0, "seed": 3},
        {"logprobs": 3},
        {"json_schema": SCHEMA},
        {"min_tokens": 20},
    ]
    async with running(lambda: engine(path)) as started:
        for attempt in range(2):  # also with what the first ones left in caches
            texts = [job(f"text-{n}-{attempt}", text) for n, text in enumerate(PROMPTS)]
            broken = [
                job(f"broken-{n}-{attempt}", images=[picture(n)], **kind)
                for n, kind in enumerate(kinds)
            ]
            recorded = await started.run(*texts, *broken)
            fine, failed = recorded[: len(texts)], recorded[len(texts) :]
            for each, expected in zip(fine, generate(path, texts), strict=True):
                is_short = isinstance(each.end, Failed) and engine is vllm_engine
                assert each.token_ids == expected[: len(each.token_ids) if is_short else None]
            assert any(each.token_ids for each in fine)
            assert [each.events for each in failed] == [[each.failed] for each in failed]
            assert {each.failed.code for each in failed} == {ErrorCode.INTERNAL_ERROR}
