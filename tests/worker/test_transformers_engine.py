import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling.checkpoint_files import open_checkpoint, sampled_fingerprint
from services.protocol.errors import ErrorCode
from services.protocol.messages import ImagePart, ImageRecipe, Message, TextPart
from services.worker.engines.base import EngineJob, EngineStartError
from services.worker.engines.transformers_engine import TransformersEngine
from services.worker.load_options import LoadOptions
from tests.support.waiting import eventually
from tests.worker.engine_contract import CHECKS, mixed_jobs
from tests.worker.engine_harness import (
    PROMPTS,
    RecordingProgress,
    Running,
    image_ref,
    job,
    picture,
    running,
)
from tests.worker.generate_reference import generate


def engine(path: Path, max_batch: int = 8, **options: Any) -> TransformersEngine:
    return TransformersEngine(path, "tiny", max_batch, num_threads=2, load=LoadOptions(**options))


def with_messages(base: EngineJob, messages: tuple[Message, ...], images: tuple) -> EngineJob:
    return EngineJob(msgspec.structs.replace(base.request, messages=messages), images)


@pytest.mark.parametrize(
    "check",
    [c for c in CHECKS if "same" in c.__name__ or "continues" in c.__name__],
    ids=lambda check: check.__name__,
)
@pytest.mark.parametrize("family", ["tiny_paddleocr_vl", "tiny_gemma3"])
async def test_other_families_batch_and_continue_too(
    check: Any, family: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(family)
    await check(lambda: engine(path))


async def test_greedy_tokens_are_those_of_generate(any_checkpoint: Path) -> None:
    jobs = mixed_jobs(images=3) + [job(f"more-{n}", "x" * n, max_tokens=40) for n in range(5)]
    expected = generate(any_checkpoint, jobs)
    async with running(lambda: engine(any_checkpoint, max_batch=4)) as started:
        recorded = await started.run(*jobs)
    assert [each.token_ids for each in recorded] == expected


async def test_repetition_penalty_is_that_of_generate(tiny_llava: Path) -> None:
    jobs = [job(f"r{n}", text, [picture(n)]) for n, text in enumerate(PROMPTS)]
    expected = generate(tiny_llava, jobs, repetition_penalty=1.3)
    penalised = [
        job(f"r{n}", text, [picture(n)], repetition_penalty=1.3) for n, text in enumerate(PROMPTS)
    ]
    async with running(lambda: engine(tiny_llava)) as started:
        recorded = await started.run(*penalised)
    assert [each.token_ids for each in recorded] == expected


async def test_several_turns_and_a_system_message_are_those_of_generate(
    any_checkpoint: Path,
) -> None:
    images = (picture(1), picture(2, 90, 40))
    first, second = (ImagePart(image_ref(each)) for each in images)
    messages = (
        Message("system", (TextPart("Be brief."),)),
        Message("user", (TextPart("Before "), first, TextPart(" and after."))),
        Message("assistant", (TextPart("A bright lesion."),)),
        Message("user", (second, TextPart("And here?"))),
    )
    sent = with_messages(job("turns"), messages, images)
    async with running(lambda: engine(any_checkpoint)) as started:
        (recorded,) = await started.run(sent)
    assert [recorded.token_ids] == generate(any_checkpoint, [sent])


async def test_text_is_the_tokenizers_own_decoding(any_checkpoint: Path) -> None:
    tokenizer = AutoProcessor.from_pretrained(any_checkpoint, backend="pil").tokenizer
    jobs = [job(f"r{n}", PROMPTS[n % 4], temperature=1.5, seed=n, max_tokens=60) for n in range(8)]
    async with running(lambda: engine(any_checkpoint)) as started:
        for recorded in await started.run(*jobs):
            assert recorded.text == tokenizer.decode(recorded.token_ids, skip_special_tokens=True)


async def test_end_of_sequence_counts_as_a_token_without_text(tiny_llava: Path) -> None:
    jobs = [job(f"r{n}", temperature=2.0, seed=n, max_tokens=300) for n in range(8)]
    async with running(lambda: engine(tiny_llava)) as started:
        stopped = [r for r in await started.run(*jobs) if r.finished.finish_reason == "stop"]
    assert stopped
    for recorded in stopped:
        assert recorded.token_ids[-1] == 2
        assert "</s>" not in recorded.text
        assert recorded.finished.completion_tokens == len(recorded.token_ids)


async def test_logprobs_are_those_of_the_raw_logits(tiny_llava: Path) -> None:
    async with running(lambda: engine(tiny_llava)) as started:
        sent = job("a", images=[picture(3)], logprobs=2, temperature=0.7, seed=3, max_tokens=6)
        (recorded,) = await started.run(sent)
    model = AutoModelForImageTextToText.from_pretrained(tiny_llava).eval()
    processor = AutoProcessor.from_pretrained(tiny_llava, backend="pil")
    content = [{"type": "image", "image": sent.images[0]}, {"type": "text", "text": PROMPTS[0]}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    length = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], torch.tensor([recorded.token_ids])], dim=1)
    with torch.inference_mode():
        logits = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=inputs["pixel_values"],
        ).logits
    expected = logits[0, length - 1 : -1].log_softmax(-1)
    entries = [entry for event in recorded.tokens for entry in event.logprobs or []]
    for row, entry in zip(expected, entries, strict=True):
        assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-4)
        assert entry.top[0][2] == pytest.approx(float(row.max()), abs=1e-4)
        assert entry.token == processor.tokenizer.decode([entry.token_id])


async def test_typed_placeholders_neither_count_nor_disturb(tiny_llava: Path) -> None:
    async with running(lambda: engine(tiny_llava)) as started:
        literal, plain = await started.run(
            job("literal", "Is <image> or </s> a token?", [picture(1)]),
            job("plain", "Is it a token?", [picture(1)]),
        )
        assert literal.finished.prompt_tokens > plain.finished.prompt_tokens


async def test_a_poisoned_image_fails_alone(tiny_llava: Path) -> None:
    class Broken:
        width = height = 10

    good, bad = job("good", images=[picture(1)]), job("bad", images=[picture(2)])
    async with running(lambda: engine(tiny_llava)) as started:
        recorded, failed = await started.run(good, EngineJob(bad.request, (Broken(),)))  # type: ignore[arg-type]
        assert recorded.finished.completion_tokens > 0
        assert failed.failed.code in {ErrorCode.INVALID_VALUE, ErrorCode.INTERNAL_ERROR}
        assert "Broken" not in failed.failed.message


async def test_senseless_parameters_fail_alone(tiny_llava: Path) -> None:
    async with running(lambda: engine(tiny_llava)) as started:
        good, bad = await started.run(job("good"), job("bad", temperature=1.0, top_p=-1.0))
        assert good.finished.completion_tokens > 0
        assert bad.failed.code == ErrorCode.INTERNAL_ERROR


async def test_more_images_than_stated_fail(tiny_llava: Path) -> None:
    async with running(lambda: engine(tiny_llava)) as started:
        sent = job("many", images=[picture(0)] * (started.card.max_images + 1))
        (recorded,) = await started.run(sent)
        assert recorded.failed.code == ErrorCode.TOO_MANY_IMAGES


async def test_the_context_message_counts_image_tokens(tiny_llava: Path) -> None:
    async with running(lambda: engine(tiny_llava, max_context=40)) as started:
        (recorded,) = await started.run(job("a", images=[picture(0)], max_tokens=30))
        assert "of them 16 image tokens" in recorded.failed.message
        assert "max_tokens 30" in recorded.failed.message
        assert "40-token context of `tiny`" in recorded.failed.message


async def test_not_finite_logits_fail_only_their_request(tiny_gemma3: Path, tmp_path: Path) -> None:
    path = tmp_path / "poisoned"
    shutil.copytree(tiny_gemma3, path)
    config = json.loads((path / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (path / "config.json").write_text(json.dumps(config))
    weights = load_file(path / "model.safetensors")
    (name,) = [name for name in weights if "embed_tokens" in name]
    weights["lm_head.weight"] = weights[name].clone()
    poison = AutoProcessor.from_pretrained(path, backend="pil").tokenizer.encode("~")[-1]
    weights[name][poison] = 3e38  # finite, but Gemma multiplies it by the root of its width
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    async with running(lambda: engine(path, max_batch=2)) as started:
        bad, good = await started.run(job("bad", "a ~ b"), job("good"))
        (later,) = await started.run(job("later"))
        assert bad.failed.code == ErrorCode.INTERNAL_ERROR
        assert good.finished.completion_tokens == len(good.token_ids)
        assert later.token_ids == good.token_ids


async def test_a_second_submission_replaces_the_first(tiny_llava: Path) -> None:
    async with running(lambda: engine(tiny_llava)) as started:
        started.submit(job("a", max_tokens=200))
        await started.until(lambda: bool(started.of("a").events))
        started.submit(job("a", max_tokens=3, attempt=2))
        (recorded,) = await started.ends("a")
        assert sum(event.attempt == 2 for event in recorded.events) == 4


async def test_kv_cache_fills_with_what_runs_and_empties_with_its_end(tiny_llava: Path) -> None:
    def used(started: Running) -> float:
        stats = started.engine.stats()
        return stats.kv_cache_usage if stats is not None else -1.0

    async with running(lambda: engine(tiny_llava)) as started:
        before = used(started)
        started.submit(job("a", max_tokens=200))
        await started.until(lambda: len(started.of("a").events) >= 2)
        early = used(started)
        await started.until(lambda: len(started.of("a").events) >= 60)
        late = used(started)
        started.engine.abort("a")
        await eventually(lambda: used(started) == 0, 5.0, "an empty KV cache")

    assert before == 0
    assert 0 < early < late < 1


async def test_model_card_states_what_the_checkpoint_does(tiny_llava: Path) -> None:
    async with running(lambda: engine(tiny_llava)) as started:
        card = started.card
    assert (card.id, card.engine, card.context_length) == ("tiny", "transformers", 2048)
    assert card.image_recipe == ImageRecipe(56, 56, 56)
    assert card.resumes == {"greedy", "sampling", "logprobs", "guided"}
    told = card.provenance
    assert told.checkpoint_fingerprint == sampled_fingerprint(open_checkpoint(tiny_llava))
    template = (tiny_llava / "chat_template.jinja").read_text("utf-8")
    assert told.template_sha256 == hashlib.sha256(template.encode()).hexdigest()
    assert (told.dtype, told.quantization) == ("float32", "")
    assert told.versions.endswith(f"torch {version('torch')}")


async def test_no_fixed_recipe_where_the_size_depends_on_the_image(tiny_paddleocr_vl: Path) -> None:
    async with running(lambda: engine(tiny_paddleocr_vl)) as started:
        assert started.card.image_recipe is None


async def test_runs_in_bfloat16(any_checkpoint: Path) -> None:
    async with running(lambda: engine(any_checkpoint, dtype="bfloat16")) as started:
        recorded = await started.run(*mixed_jobs(images=1))
        assert all(each.finished.completion_tokens > 0 for each in recorded)


@pytest.mark.parametrize("name", ["modeling_own.py", "pytorch_model.bin", "training_state.pt"])
async def test_refuses_what_could_run_code(name: str, tiny_llava: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(tiny_llava, path)
    (path / name).write_bytes(b"")
    await _assert_refused(path, name)


async def test_refuses_auto_map(tiny_llava: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(tiny_llava, path)
    config = json.loads((path / "config.json").read_text())
    config["text_config"]["auto_map"] = {"AutoModel": "own.Own"}
    (path / "config.json").write_text(json.dumps(config))
    await _assert_refused(path, "auto_map")


async def test_refuses_a_directory_that_is_no_checkpoint(tmp_path: Path) -> None:
    await _assert_refused(tmp_path / "nowhere", "is no directory")


async def test_refuses_a_checkpoint_without_a_chat_template(
    tiny_llava: Path, tmp_path: Path
) -> None:
    path = tmp_path / "copy"
    shutil.copytree(tiny_llava, path)
    (path / "chat_template.jinja").unlink()
    await _assert_refused(path, "chat template")


async def test_refuses_broken_weights_in_one_line(tiny_llava: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(tiny_llava, path)
    (path / "model.safetensors").write_bytes(b"not tensors")
    await _assert_refused(path, "is damaged")


async def _assert_refused(path: Path, match: str) -> None:
    refused = engine(path)
    with pytest.raises(EngineStartError, match=match) as caught:
        await refused.start(lambda _events: None, RecordingProgress())
    assert "\n" not in str(caught.value)
    await refused.close()
