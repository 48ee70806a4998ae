from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaProcessor

from modeling.tiny import IMAGE_ID
from services.protocol.messages import ImagePart, ImageRef, Message, Role, TextPart
from services.worker.engines.chat_prompt import PromptBuilder, PromptError, extend_inputs
from tests.worker.engine_harness import job, picture

IMAGE = ImagePart(ImageRef("0" * 64, 70, 60))
TOKENS_PER_IMAGE = 16
HEART = "\N{HEAVY BLACK HEART}"


@pytest.fixture(scope="module")
def processor(tiny_llava: Path) -> Any:
    return AutoProcessor.from_pretrained(tiny_llava, backend="pil")


@pytest.fixture
def prompts(processor: Any) -> PromptBuilder:
    return PromptBuilder(processor, IMAGE_ID)


def turn(role: Role, *parts: str | ImagePart) -> Message:
    return Message(role, tuple(TextPart(p) if isinstance(p, str) else p for p in parts))


def native(processor: Any, messages: list[Message], images: list[Image.Image]) -> dict[str, Any]:
    pictures = iter(images)
    conversation = [
        {
            "role": message.role,
            "content": [
                {"type": "text", "text": part.text}
                if isinstance(part, TextPart)
                else {"type": "image", "image": next(pictures)}
                for part in message.parts
            ],
        }
        for message in messages
    ]
    return processor.apply_chat_template(
        conversation,
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )


CONVERSATIONS = {
    "text": ([turn("user", "What is a liver?")], 0),
    "image first": ([turn("user", IMAGE, "What is this?")], 1),
    "image last": ([turn("user", "What is this? ", IMAGE)], 1),
    "image between": ([turn("user", "Here ", IMAGE, " and ", IMAGE, f" {HEART}?")], 2),
    "turns": (
        [
            turn("system", "Be brief."),
            turn("user", IMAGE, "What is this?"),
            turn("assistant", "A lung."),
            turn("user", "And ", IMAGE, "?"),
        ],
        2,
    ),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_inputs_are_those_of_the_processor(
    name: str, prompts: PromptBuilder, processor: Any
) -> None:
    messages, num_images = CONVERSATIONS[name]
    images = [picture(n, 50 + 20 * n) for n in range(num_images)]
    prompt = prompts.build(messages, images)
    expected = native(processor, messages, images)
    assert prompt.inputs.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(prompt.inputs[key], value)
    assert prompt.num_image_tokens == num_images * TOKENS_PER_IMAGE


def test_images_stand_where_the_parts_put_them(prompts: PromptBuilder, processor: Any) -> None:
    prompt = prompts.build([turn("user", "before ", IMAGE, "after")], [picture(0)])
    text = processor.tokenizer.decode(prompt.token_ids)
    assert text == f"<s>USER: before {'<image>' * TOKENS_PER_IMAGE}\nafter ASSISTANT:"


class NativeProcessor(LlavaProcessor):
    """The same one under another name: `PromptBuilder` takes its way for all other processors."""


def natively(processor: Any) -> PromptBuilder:
    """A builder that does not use the code of training."""
    return PromptBuilder(
        NativeProcessor(
            processor.image_processor,
            processor.tokenizer,
            patch_size=processor.patch_size,
            vision_feature_select_strategy=processor.vision_feature_select_strategy,
            num_additional_image_tokens=processor.num_additional_image_tokens,
            chat_template=processor.chat_template,
        ),
        IMAGE_ID,
    )


TALKS = {
    **CONVERSATIONS,
    "other letters": ([turn("user", f"  {HEART}\n\t{{{{ x }}}}\u4e2d  ", IMAGE)], 1),
    "empty parts": ([turn("user", "", IMAGE, " ", "", "x"), turn("assistant", "")], 1),
    "a system message later": ([turn("user", "a"), turn("system", "b"), turn("user", "c")], 0),
}


@pytest.mark.parametrize("name", TALKS)
def test_the_code_of_training_gives_the_inputs_of_the_processors_way(
    name: str, prompts: PromptBuilder, processor: Any
) -> None:
    messages, num_images = TALKS[name]
    images = [picture(n, 50 + 20 * n) for n in range(num_images)]
    native = natively(processor)
    ours, theirs = prompts.build(messages, images), native.build(messages, images)
    assert ours.token_ids == theirs.token_ids
    assert ours.num_image_tokens == theirs.num_image_tokens
    assert ours.inputs.keys() == theirs.inputs.keys()
    for key, value in theirs.inputs.items():
        assert torch.equal(ours.inputs[key], value)
        assert ours.inputs[key].dtype == value.dtype
    unexpanded = prompts.build_unexpanded(messages, images)
    assert unexpanded == native.build_unexpanded(messages, images)


def test_special_tokens_that_stand_alone_are_the_same_text_on_both_ways(
    prompts: PromptBuilder, processor: Any
) -> None:
    messages = [turn("user", "one\n</s>\ntwo\n<image>")]
    assert (
        prompts.build(messages, []).token_ids == natively(processor).build(messages, []).token_ids
    )


def test_a_template_that_rewrites_texts_takes_the_processors_way(tiny_llava: Path) -> None:
    processor: Any = AutoProcessor.from_pretrained(tiny_llava, backend="pil")
    processor.chat_template = processor.chat_template.replace(
        "{{ part['text'] }}", "{{ part['text'] | replace('a', '</s>') }}"
    )
    messages, images = [turn("user", IMAGE, "a liver")], [picture(0)]
    prompt = PromptBuilder(processor, IMAGE_ID).build(messages, images)
    expected = natively(processor).build(messages, images)
    assert prompt.token_ids == expected.token_ids
    assert torch.equal(prompt.inputs["pixel_values"], expected.inputs["pixel_values"])


@pytest.mark.parametrize(
    "typed",
    [
        "<image>",
        "</s>",
        "a <image> b</s>",
        "<s><pad></s><image><image>",
        "x<image>" * 9,
        "<<image>>",
    ],
)
@pytest.mark.parametrize("num_images", [0, 1])
def test_typed_special_tokens_are_ordinary_text(
    typed: str, num_images: int, prompts: PromptBuilder, processor: Any
) -> None:
    images = [picture(0)] * num_images
    with_literal = prompts.build([turn("user", *[IMAGE] * num_images, typed)], images)
    without = prompts.build([turn("user", *[IMAGE] * num_images, "x")], images)
    for special_id in range(4):
        assert with_literal.token_ids.count(special_id) == without.token_ids.count(special_id)
    assert typed in processor.tokenizer.decode(with_literal.token_ids)
    assert with_literal.num_image_tokens == num_images * TOKENS_PER_IMAGE
    for key in ("input_ids", "attention_mask"):
        assert with_literal.inputs[key].shape == (1, len(with_literal.token_ids))
    assert with_literal.inputs["attention_mask"].all()


def test_text_around_a_literal_is_tokenised_as_ever(prompts: PromptBuilder, processor: Any) -> None:
    prompt = prompts.build([turn("user", "the liver<image>is the organ")], [])
    encode = processor.tokenizer.encode
    before, after = encode("<s>USER: the liver"), encode("is the organ ASSISTANT:")
    assert prompt.token_ids[: len(before)] == before
    assert prompt.token_ids[-len(after) :] == after


def test_literals_do_not_change_later_prompts(prompts: PromptBuilder, processor: Any) -> None:
    prompts.build([turn("user", "<image></s>")], [])
    messages, images = [turn("user", IMAGE, "What is this?")], [picture(0)]
    prompt = prompts.build(messages, images)
    assert prompt.token_ids == native(processor, messages, images)["input_ids"][0].tolist()
    assert len(processor.tokenizer) == max(processor.tokenizer.get_vocab().values()) + 1 < 512


def test_masks_grow_with_literals_in_other_families(
    tiny_gemma3: Path, tiny_paddleocr_vl: Path
) -> None:
    for path, literal in ((tiny_gemma3, "<start_of_image>"), (tiny_paddleocr_vl, "<|IMAGE_END|>")):
        processor = AutoProcessor.from_pretrained(path, backend="pil")
        prompts = PromptBuilder(processor, processor.image_token_id)
        plain = prompts.build([turn("user", IMAGE, "a b")], [picture(0)])
        prompt = prompts.build([turn("user", IMAGE, f"a {literal} b")], [picture(0)])
        literal_id = processor.tokenizer.convert_tokens_to_ids(literal)
        assert prompt.token_ids.count(literal_id) == plain.token_ids.count(literal_id)
        assert prompt.num_image_tokens == plain.num_image_tokens > 0
        masks = [v for k, v in prompt.inputs.items() if k.endswith(("_ids", "_mask"))]
        assert len(masks) >= 3
        assert {mask.shape[1] for mask in masks} == {len(prompt.token_ids)}


def test_a_template_that_wants_strings_gets_them(tiny_llava: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny_llava, backend="pil")
    processor.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    )
    prompts = PromptBuilder(processor, IMAGE_ID)
    assert not prompts.takes_lists
    prompt = prompts.build([turn("user", "one ", "two")], [])
    assert processor.tokenizer.decode(prompt.token_ids) == "user: one two\n"


def test_a_refusing_template_is_a_prompt_error_without_its_words(tiny_llava: Path) -> None:
    processor = AutoProcessor.from_pretrained(tiny_llava, backend="pil")
    processor.chat_template = "{{ raise_exception('no: ' + messages[0]['content'][0]['text']) }}"
    prompts = PromptBuilder(processor, IMAGE_ID)
    with pytest.raises(PromptError) as caught:
        prompts.build([turn("user", "canary")], [])
    assert "canary" not in str(caught.value)


def test_missing_images_are_a_prompt_error(prompts: PromptBuilder) -> None:
    with pytest.raises(PromptError):
        prompts.build([turn("user", IMAGE, "x")], [])


def test_an_answer_to_continue_stands_behind_the_prompt() -> None:
    inputs = {
        "input_ids": torch.tensor([[5, 6]]),
        "attention_mask": torch.tensor([[1, 1]]),
        "token_type_ids": torch.tensor([[0, 1]]),
        "pixel_values": torch.zeros(1, 3, 2, 2),
    }
    longer = extend_inputs(inputs, [7, 8, 9])
    assert longer["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert longer["attention_mask"].tolist() == [[1, 1, 1, 1, 1]]
    assert longer["token_type_ids"].tolist() == [[0, 1, 0, 0, 0]]
    assert longer["pixel_values"] is inputs["pixel_values"]
    assert extend_inputs(inputs, []) is inputs


@pytest.mark.parametrize("text", ["a liver", "<image> </s> [INST]", f"{HEART} <image>"])
def test_raw_text_is_its_own_prompt_and_special_tokens_in_it_are_text(
    prompts: PromptBuilder, processor: Any, text: str
) -> None:
    request = msgspec.structs.replace(job("raw", text).request, is_raw=True)
    prompt = prompts.build_for(request, [])

    tokenizer = processor.tokenizer
    special = set(tokenizer.all_special_ids) | {IMAGE_ID}
    begun = tokenizer("")["input_ids"]
    assert prompt.token_ids[: len(begun)] == begun
    assert special.isdisjoint(prompt.token_ids[len(begun) :])
    assert tokenizer.decode(prompt.token_ids[len(begun) :]).strip() == text
    assert prompt.token_ids == prompts.ids_for(request, [])
    assert prompt.num_image_tokens == 0
