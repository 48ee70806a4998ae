"""Guided answers beyond the engine contract: what is allowed, what is bounded, what fails."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoProcessor, PreTrainedTokenizerBase

from modeling.tiny import BOS_ID, EOS_ID
from services.protocol.errors import ErrorCode, RequestError
from services.worker.engines.guidance import GuidanceError, Guide, GuideMaker
from services.worker.engines.transformers_engine import TransformersEngine
from tests.worker.engine_contract import SCHEMA
from tests.worker.engine_harness import job, running
from tests.worker.test_schema_check import MANY_PATTERNS

VOCAB = 512
BOOLEAN = '{"type": "boolean"}'


@pytest.fixture(scope="module")
def tokenizer(tiny_llava: Path) -> PreTrainedTokenizerBase:
    return AutoProcessor.from_pretrained(tiny_llava, backend="pil").tokenizer


@pytest.fixture(scope="module")
def maker(tokenizer: PreTrainedTokenizerBase) -> Iterator[GuideMaker]:
    made = GuideMaker(tokenizer, VOCAB, frozenset({EOS_ID}))
    yield made
    made.close()


def allowed(guide: Guide) -> set[int]:
    flags = guide.allowed(VOCAB)
    assert flags.shape == (VOCAB,)
    return set(flags.nonzero().flatten().tolist())


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def test_the_end_is_allowed_when_the_json_is_complete_and_only_then(
    maker: GuideMaker, tokenizer: PreTrainedTokenizerBase
) -> None:
    guide = maker.make(BOOLEAN)
    assert EOS_ID not in allowed(guide)
    guide.consume(ids_of(tokenizer, "true"))
    assert allowed(guide) == {EOS_ID}
    assert not guide.is_broken


def test_every_end_of_sequence_token_of_the_checkpoint_ends_json(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    maker = GuideMaker(tokenizer, VOCAB, frozenset({BOS_ID, EOS_ID}))
    guide = maker.make(BOOLEAN)
    guide.consume(ids_of(tokenizer, "false"))
    assert allowed(guide) == {BOS_ID, EOS_ID}
    maker.close()


def test_text_or_json_is_decided_by_the_first_character(
    maker: GuideMaker, tokenizer: PreTrainedTokenizerBase
) -> None:
    schema = json.dumps({"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]})
    (brace,) = ids_of(tokenizer, "{")
    text, call = (maker.make(schema, may_be_text=True) for _ in range(2))
    assert {brace, EOS_ID} < allowed(text)
    text.consume(ids_of(tokenizer, "The side"))
    assert {brace, EOS_ID} < allowed(text)
    call.consume([brace])
    assert EOS_ID not in allowed(call)
    assert len(allowed(call)) < 5
    spaced = maker.make(schema, may_be_text=True)
    spaced.consume(ids_of(tokenizer, " "))
    assert not {brace, EOS_ID} & allowed(spaced)
    assert EOS_ID not in allowed(maker.make(schema))


def test_guides_of_one_schema_do_not_share_their_place(
    maker: GuideMaker, tokenizer: PreTrainedTokenizerBase
) -> None:
    first, second = maker.make(BOOLEAN), maker.make(BOOLEAN)
    beginning = allowed(second)
    first.consume(ids_of(tokenizer, "true"))
    assert allowed(second) == beginning == allowed(maker.make(BOOLEAN))


def test_a_token_that_is_not_allowed_breaks_the_guide(
    maker: GuideMaker, tokenizer: PreTrainedTokenizerBase
) -> None:
    guide = maker.make(BOOLEAN)
    guide.consume(ids_of(tokenizer, "maybe"))
    assert guide.is_broken
    with pytest.raises(GuidanceError):
        guide.allowed(VOCAB)


def test_padding_of_the_vocabulary_is_never_allowed(
    maker: GuideMaker, tokenizer: PreTrainedTokenizerBase
) -> None:
    guide = maker.make('{"type": "string"}')
    guide.consume(ids_of(tokenizer, '"'))
    assert max(allowed(guide)) < len(tokenizer) < VOCAB


def test_a_bad_schema_is_refused_each_time(maker: GuideMaker) -> None:
    for _ in range(2):
        with pytest.raises(RequestError) as caught:
            maker.order('{"type": "nothing"}').result()
        assert caught.value.code is ErrorCode.INVALID_VALUE
        assert caught.value.param == "response_format"
        assert "Invalid type" in caught.value.message


def engine(path: Path) -> TransformersEngine:
    return TransformersEngine(path, "tiny", 8, num_threads=2)


async def test_the_others_go_on_while_a_schema_compiles_for_ever(tiny_llava: Path) -> None:
    async with running(lambda: engine(tiny_llava)) as started:
        started.submit(job("nasty", json_schema=json.dumps(MANY_PATTERNS)))
        (free,) = await started.run(job("free", max_tokens=4))
        assert free.finished.completion_tokens > 0
        assert started.of("nasty").events == []
        (nasty,) = await started.ends("nasty")
        assert nasty.failed.param == "response_format"


async def test_an_aborted_request_is_not_begun_when_its_schema_is_ready(tiny_llava: Path) -> None:
    async with running(lambda: engine(tiny_llava)) as started:
        started.submit(job("dropped", json_schema=json.dumps(SCHEMA)))
        started.engine.abort("dropped")
        await started.run(job("kept", json_schema=json.dumps(SCHEMA), max_tokens=200))
        assert started.of("dropped").events == []


async def test_what_a_guided_answer_can_and_cannot(tiny_llava: Path) -> None:
    schema = json.dumps(SCHEMA)
    async with running(lambda: engine(tiny_llava)) as started:
        kinds: dict[str, dict[str, Any]] = {
            "whole": {},
            "cut": {"max_tokens": 5},
            "longer": {"min_tokens": 150},
            "object": {"json_schema": '{"type":"object"}', "max_tokens": 30},
            "logprobs": {"logprobs": 3},
        }
        answers = await started.run(
            *(
                job(name, **{"json_schema": schema, "max_tokens": 200, **kind})
                for name, kind in kinds.items()
            )
        )
        by_name = dict(zip(kinds, answers, strict=True))
        left = await started.run(
            job("left", json_schema=schema, resume_token_ids=(5, 6, 7), attempt=2)
        )
    whole = by_name["whole"]
    assert whole.token_ids[-1] == EOS_ID
    assert by_name["cut"].finished.finish_reason == "length"
    assert by_name["cut"].token_ids == whole.token_ids[:5]
    assert by_name["longer"].token_ids == whole.token_ids  # complete JSON ends all the same
    assert by_name["object"].text.startswith("{")
    assert by_name["logprobs"].token_ids == whole.token_ids
    said = [entry for event in by_name["logprobs"].tokens for entry in event.logprobs or ()]
    assert any(entry.logprob < entry.top[0][2] for entry in said)  # raw: the best was forbidden
    assert left[0].failed.code == ErrorCode.INTERNAL_ERROR


async def test_min_tokens_masks_every_end_of_sequence(tiny_llava: Path, tmp_path: Path) -> None:
    async with running(lambda: engine(tiny_llava)) as started:
        (whole,) = await started.run(job("whole", max_tokens=16))
    ends_at = next(n for n in range(4, 16) if whole.token_ids[n] not in whole.token_ids[:n])
    early = shutil.copytree(tiny_llava, tmp_path / "early")
    (early / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [EOS_ID, whole.token_ids[ends_at]]}), encoding="utf-8"
    )
    async with running(lambda: engine(early)) as started:
        cut, exact, longer, resumed = await started.run(
            job("cut", max_tokens=16),
            job("exact", max_tokens=16, min_tokens=ends_at),
            job("longer", max_tokens=16, min_tokens=16),
            job(
                "resumed",
                max_tokens=16,
                min_tokens=ends_at,
                resume_token_ids=whole.token_ids[:ends_at],
                attempt=2,
            ),
        )
    assert cut.token_ids == exact.token_ids == whole.token_ids[: ends_at + 1]
    assert len(longer.token_ids) == 16
    assert not {EOS_ID, whole.token_ids[ends_at]} & set(longer.token_ids)
    assert resumed.token_ids == whole.token_ids[ends_at : ends_at + 1]
