"""A record's tokens are those of serving, and a record that is none is refused with a reason."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from modeling.conversation_templates import TEMPLATES
from modeling.conversations import Turn, parse_item
from services.protocol.messages import ImagePart, ImageRef, Message, TextPart
from services.worker.engines.own_prompt import OwnPrompts
from tests.modeling.conftest import Converted
from tests.training.llava_med_records import ANSWER, QUESTION, Record, record, text_only
from training.errors import TrainingError
from training.examples import Example, ExampleTokeniser, MalformedRecordError, image_names
from training.processor import LlavaProcessing, open_processing

PICTURE = Image.new("RGB", (40, 30))
NUM_IMAGE_TOKENS = 16
RECORDS: dict[str, Record] = {
    "image first": record(),
    "image last": record("Which organ is this?\n<image>", ANSWER),
    "two rounds": record(QUESTION, ANSWER, "Is it enlarged?", "No, it is not."),
    "text only": text_only(3),
    "two images": record("<image>\nand\n<image>\nDiffer?", "No.", image=["a.png", "b.png"]),
    "special tokens typed": record("<image>\n<s> </s> <im_start> ###?", "<im_patch> </s>."),
}
LONG = 4096


@pytest.fixture(scope="module", params=["tiny", "v1", "v15"])
def processing(request: pytest.FixtureRequest) -> LlavaProcessing:
    made = request.getfixturevalue(request.param)
    return open_processing(made.hf if isinstance(made, Converted) else made)


@pytest.fixture(scope="module")
def tiny_processing(tiny: Path) -> LlavaProcessing:
    return open_processing(tiny)


def example_of(
    processing: LlavaProcessing, item: Record, *, conversation: Any = None, max_length: int = LONG
) -> Example:
    return ExampleTokeniser(processing, conversation, max_length).tokenise(0, item)


def messages(item: Record) -> list[dict[str, Any]]:
    return [
        {
            "role": turn.role,
            "content": [
                {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
                for part in turn.parts
            ],
        }
        for turn in parse_item(item).turns
    ]


def native_ids(processing: LlavaProcessing, item: Record) -> list[int]:
    """What transformers makes of a conversation by itself."""
    text = processing.processor.apply_chat_template(messages(item), tokenize=False)
    pictures = [PICTURE] * parse_item(item).num_images
    made = processing.processor(text=text, images=pictures or None, add_special_tokens=False)
    return made["input_ids"][0]


def trained_text(processing: LlavaProcessing, example: Example) -> str:
    pairs = zip(example.prompt.token_ids, example.prompt.is_trained, strict=True)
    ids = [token_id for token_id, is_trained in pairs if is_trained]
    return processing.processor.tokenizer.decode(ids)


@pytest.mark.parametrize("name", [name for name in RECORDS if name != "special tokens typed"])
def test_the_ids_are_those_of_the_checkpoints_own_template(processing: LlavaProcessing, name: str):
    example = example_of(processing, RECORDS[name])

    assert example.prompt.token_ids == native_ids(processing, RECORDS[name])
    assert not example.is_truncated


@pytest.mark.parametrize("name", RECORDS)
def test_a_question_is_written_as_serving_writes_it(processing: LlavaProcessing, name: str):
    """The prompt of the first answer, each placeholder repeated, is the example's beginning."""
    item = RECORDS[name]
    image_id = processing.image_token_id
    asked = parse_item(item).turns[:1]
    served = OwnPrompts(processing.processor, image_id).token_ids(as_sent(asked))
    counts = [NUM_IMAGE_TOKENS if token_id == image_id else 1 for token_id in served]
    expanded = [i for i, count in zip(served, counts, strict=True) for _ in range(count)]

    found = example_of(processing, item).prompt

    length = len(expanded) - 1  # the space before an answer joins its first token
    assert found.token_ids[:length] == expanded[:length]


def as_sent(turns: Sequence[Turn]) -> list[Message]:
    part = ImagePart(ImageRef("0" * 64, 40, 30))
    return [
        Message(
            turn.role,
            tuple(TextPart(each) if isinstance(each, str) else part for each in turn.parts),
        )
        for turn in turns
    ]


@pytest.mark.parametrize("name", RECORDS)
def test_v1_has_the_same_ids_by_its_own_template_and_by_name(v1: Converted, name: str):
    """The tokens around an image are put there by the name's template, too."""
    processing = open_processing(v1.hf)
    own = example_of(processing, RECORDS[name])
    named = example_of(processing, RECORDS[name], conversation="v0")

    assert named.prompt.token_ids == own.prompt.token_ids
    assert named.images == own.images


def test_v1_puts_start_and_end_around_an_image(v1: Converted):
    processing = open_processing(v1.hf)
    ids = processing.processor.tokenizer.convert_tokens_to_ids(["<im_start>", "<im_end>"])

    prompt = example_of(processing, record(), conversation="v0_training").prompt

    [(start, end)] = prompt.image_spans
    assert prompt.token_ids[start:end] == [ids[0], *[processing.image_token_id] * 16, ids[1]]


def test_v1_as_trained_learns_answers_and_the_signs_between_turns(v1: Converted):
    processing = open_processing(v1.hf)
    example = example_of(processing, record(), conversation="v0_training")

    # `###` before the question, and everything from the answer's `###` to the end
    assert trained_text(processing, example) == f"###### Assistant: {ANSWER}\n### "


def test_v15_has_nothing_around_an_image(v15: Converted):
    processing = open_processing(v15.hf)
    prompt = example_of(processing, record(), conversation="mistral_instruct").prompt

    [(start, end)] = prompt.image_spans
    assert prompt.token_ids[start:end] == [processing.image_token_id] * 16


def test_only_answers_are_trained(tiny_processing: LlavaProcessing):
    example = example_of(tiny_processing, RECORDS["two rounds"])

    assert trained_text(tiny_processing, example) == f" {ANSWER}</s> No, it is not.</s>"
    assert example.num_trained_tokens == sum(example.prompt.is_trained)


def test_the_first_token_never_counts(tiny_processing: LlavaProcessing):
    example = example_of(tiny_processing, record())
    example.prompt.is_trained[0] = True
    assert example.num_trained_tokens == sum(example.prompt.is_trained) - 1


def test_a_question_without_answer_teaches_nothing(v1: Converted):
    """Though a template may train a sign before the question."""
    example = example_of(
        open_processing(v1.hf), record("<image>\nWhich organ?"), conversation="v0_training"
    )
    assert not example.has_answer
    assert example.num_trained_tokens == 0


def test_a_leading_answer_is_left_out_and_said_so(tiny_processing: LlavaProcessing):
    item = record("Hello!", QUESTION, ANSWER, begins="gpt")

    example = example_of(tiny_processing, item)

    assert example.has_dropped_answer
    assert example.prompt == example_of(tiny_processing, record()).prompt


def test_what_is_too_long_is_cut(tiny_processing: LlavaProcessing):
    whole = example_of(tiny_processing, record())
    cut = example_of(tiny_processing, record(), max_length=whole.num_tokens - 3)

    assert cut.is_truncated
    assert cut.prompt.token_ids == whole.prompt.token_ids[:-3]
    assert cut.images == ("scan.png",)


def test_an_image_that_would_be_cut_is_left_out(tiny_processing: LlavaProcessing):
    item = RECORDS["two images"]
    second = example_of(tiny_processing, item).prompt.image_spans[1]

    cut = example_of(tiny_processing, item, max_length=second[1] - 1)

    assert cut.images == ("a.png",)
    assert len(cut.prompt.image_spans) == 1
    assert cut.num_trained_tokens == 0


def test_questions_of_one_image_share_what_stands_up_to_it(tiny_processing: LlavaProcessing):
    first = example_of(tiny_processing, record("<image>\nWhich organ?", "Liver."))
    second = example_of(tiny_processing, record("<image>\nOn which side?", "Left."))
    length = first.shared_prefix_length

    assert length == first.prompt.image_spans[-1][1] == second.shared_prefix_length
    assert first.prompt.token_ids[:length] == second.prompt.token_ids[:length]


@pytest.mark.parametrize(
    "item",
    [text_only(), record("Hello", "Hi.", "<image>\nWhich organ?", "Liver.")],
    ids=["no image", "an answer before the image"],
)
def test_no_prefix_is_shared_without_an_image_or_with_something_trained(
    tiny_processing: LlavaProcessing, item: Record
):
    assert example_of(tiny_processing, item).shared_prefix_length == 0


def test_no_prefix_is_shared_whose_last_token_foretells_a_trained_one(
    tiny_processing: LlavaProcessing,
):
    example = example_of(tiny_processing, record())
    example.prompt.is_trained[example.prompt.image_spans[-1][1]] = True
    assert example.shared_prefix_length == 0


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (record("Which organ?", "Liver."), "it has an image and no <image>"),
        (record(image=None), "it has <image> and names no image"),
        (record(image=["a.png", "b.png"]), "it names 2 images and has <image> 1 times"),
        (record("<image> <image>?", "No."), "it names 1 images and has <image> 2 times"),
        (record(image="../scan.png"), "leads out of the image folder"),
        (record(image="a/../../scan.png"), "leads out of the image folder"),
        (record(image="/etc/scan.png"), "leads out of the image folder"),
        (record(image="C:\\scan.png"), "leads out of the image folder"),
        (record(image="..\\scan.png"), "leads out of the image folder"),
        (record(image=7), "neither a file's name nor a list"),
        (record(image=" "), "neither a file's name nor a list"),
        (record(image=["a.png", None]), "neither a file's name nor a list"),
        ({"id": 1}, "no turns: `conversations` must be a list"),
        ({"id": 1, "conversations": ["Canary"]}, "turn 0 is no object"),
        ({"conversations": [{"from": "Canary", "value": "x"}]}, "turn 0 is from neither"),
        ({"conversations": [{"from": "human", "value": None}]}, "turn 0 has no text"),
        (record("<image>?", "See <image>."), "turn 1 is an answer with <image>"),
        (record("<image>\nhalf \ud83d?", "Yes."), "turn 0 holds half a surrogate pair"),
        (record("Hello.", image=None, begins="gpt"), "it holds one answer and no question"),
    ],
)
def test_a_malformed_record_is_refused_with_its_reason(
    tiny_processing: LlavaProcessing, item: Record, reason: str
):
    with pytest.raises(MalformedRecordError) as error:
        example_of(tiny_processing, item)

    assert reason in str(error.value)
    assert "Canary" not in str(error.value)


@pytest.mark.parametrize("conversation", [None, "vicuna_v1_1"])
def test_turns_that_do_not_alternate_are_malformed(
    tiny_processing: LlavaProcessing, conversation: str | None
):
    item = record(QUESTION, ANSWER)
    item["conversations"] += [{"from": "gpt", "value": "Canary"}]

    with pytest.raises(MalformedRecordError, match="turn 2 is from 'gpt' like the one before"):
        example_of(tiny_processing, item, conversation=conversation)


def test_a_turns_number_counts_the_answer_that_was_dropped(tiny_processing: LlavaProcessing):
    item = record("Hello!", QUESTION, ANSWER, begins="gpt")
    item["conversations"] += [{"from": "gpt", "value": "More."}]
    with pytest.raises(MalformedRecordError, match="turn 3 is from 'gpt'"):
        example_of(tiny_processing, item)


def test_the_misspelt_key_and_integers_are_read(tiny_processing: LlavaProcessing):
    item = record("<image>\nHow many?", "2")
    turns = item.pop("conversations")
    turns[1]["value"] = 2
    misspelt = {**item, "conversatons": turns}

    expected = example_of(tiny_processing, record("<image>\nHow many?", "2"))
    assert example_of(tiny_processing, misspelt).prompt == expected.prompt


def test_names_in_folders_are_taken():
    assert image_names({"image": "ct/a..b.png"}) == ("ct/a..b.png",)
    assert image_names({"image": None}) == ()


def test_a_named_template_needs_an_end_token(tiny_processing: LlavaProcessing, tiny: Path):
    processing = open_processing(tiny)
    processing.processor.tokenizer.eos_token = None
    with pytest.raises(TrainingError, match=r"no eos_token, which model\.conversation needs"):
        ExampleTokeniser(processing, "llava_v1", LONG)


def test_the_fingerprint_changes_with_all_that_decides_tokens(tiny: Path):
    def fingerprint(*options: Any, num_image_tokens: int = 16) -> str:
        processing = replace(open_processing(tiny), num_image_tokens=num_image_tokens)
        return ExampleTokeniser(processing, *options).fingerprint

    assert fingerprint(None, LONG) == fingerprint(None, LONG)
    others = {
        fingerprint(None, LONG),
        fingerprint("llava_v1", LONG),
        fingerprint("vicuna_v1_1", LONG),
        fingerprint(None, LONG - 1),
        fingerprint(None, LONG, num_image_tokens=17),
    }
    assert len(others) == 5


def test_every_named_template_takes_a_record(tiny_processing: LlavaProcessing):
    for name in TEMPLATES:
        example = example_of(tiny_processing, RECORDS["two rounds"], conversation=name)
        assert ANSWER in trained_text(tiny_processing, example)
