from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from modeling.chat_template import jinja_of
from modeling.conversation_templates import TEMPLATES, TemplateName, TextPiece, write
from modeling.conversations import Conversation, ConversationError, ImageSlot, Turn, split_markers
from modeling.prompt import IGNORE_INDEX, ImageTokens, PromptTokeniser, SpecialIds, TokenisedPrompt
from tests.golden_files import GoldenFiles
from tests.modeling.sentencepiece_style import BOS_ID, EOS_ID, UNK_ID, sentencepiece_style

NAMES = tuple(TEMPLATES)
HASHES: tuple[TemplateName, ...] = (
    "v0", "default", "v1", "simple", "simple_legacy", "multimodal",
)  # fmt: skip
ADDED = ("[PAD]", "<im_patch>", "<im_start>", "<im_end>")
NUM_PATCHES = 3
TOKENIZER = sentencepiece_style(ADDED)
ADDED_IDS = TOKENIZER.encode("".join(ADDED), add_special_tokens=False).ids
_, PATCH_ID, START_ID, END_ID = ADDED_IDS
IMAGE = ImageTokens.of(PATCH_ID, NUM_PATCHES, start_id=START_ID, end_id=END_ID)
V1_IDS = SpecialIds(bos=EOS_ID, eos=EOS_ID)  # as in LLaVA-Med v1.0
TOKENISER = PromptTokeniser(TOKENIZER, V1_IDS, IMAGE)


def talk(*texts: str, system: str | None = None) -> Conversation:
    roles = ("user", "assistant")
    turns = [Turn(roles[i % 2], split_markers(text)) for i, text in enumerate(texts)]
    return Conversation(tuple(turns), system)


def tokenised(name: TemplateName, conversation: Conversation, **options) -> TokenisedPrompt:
    return TOKENISER.tokenise(write(TEMPLATES[name], conversation, **options))


def trained_stretches(prompt: TokenisedPrompt) -> list[str]:
    """The texts between what carries no loss."""
    found: list[list[int]] = [[]]
    for token_id, is_trained in zip(prompt.token_ids, prompt.is_trained, strict=True):
        if is_trained:
            found[-1].append(token_id)
        elif found[-1]:
            found.append([])
    return [TOKENIZER.decode(ids, skip_special_tokens=False) for ids in found if ids]


# -------------------------------------------------------------------------------------- masks


def test_v0_trains_answers_with_their_role_and_the_hashes_that_end_a_turn():
    prompt = tokenised("v0_training", talk("<image>\nWhich organ?", "Lung.", "Sure?", "Yes."))

    # the hashes end the header and the answer before them; the model writes its role itself
    assert trained_stretches(prompt) == [
        "###", "### Assistant: Lung.\n###", "### Assistant: Yes.\n### ",
    ]  # fmt: skip


@pytest.mark.parametrize("name", HASHES)
def test_the_hashes_behind_an_answer_are_trained_and_greetings_are_not(name: TemplateName):
    prompt = tokenised(name, talk("<image>\nWhich organ?", "Lung.", "Sure?", "Yes."))

    assert [text.strip() for text in trained_stretches(prompt)] == ["Lung.###", "Yes.###"]


@pytest.mark.parametrize("name", ["llava_v1", "vicuna_v1_1", "bair_v1"])
def test_vicuna_trains_answers_and_their_ends(name: TemplateName):
    prompt = tokenised(name, talk("<image>\nWhich organ?", "Lung.", "Sure?", "Yes."))

    assert [text.strip() for text in trained_stretches(prompt)] == ["Lung.</s>", "Yes.</s>"]


def test_mistral_trains_answers_and_their_ends():
    prompt = tokenised("mistral_instruct", talk("<image>\nWhich organ?", "Lung."))

    assert [text.strip() for text in trained_stretches(prompt)] == ["Lung. </s>"]


@pytest.mark.parametrize("name", NAMES)
def test_labels_are_the_trained_tokens_and_no_image_is_trained(name: TemplateName):
    prompt = tokenised(name, talk("<image>\nOne", "Two", "<image> three <image>", "Four"))

    assert len(prompt.labels) == len(prompt.token_ids)
    for token_id, label, is_trained in zip(
        prompt.token_ids, prompt.labels, prompt.is_trained, strict=True
    ):
        assert label == (token_id if is_trained else IGNORE_INDEX)
    for start, end in prompt.image_spans:
        assert prompt.token_ids[start:end] == list(IMAGE.ids)
        assert not any(prompt.is_trained[start:end])


# ------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("name", "greeting"),
    [
        ("simple", "Human: Hi!###Assistant: <greeting>\n###"),
        ("simple_legacy", "Human: Hi!\n\n### Response:###Assistant: <greeting>\n###"),
        ("multimodal", "Human: Hi!###Assistant: <greeting>\n###"),
        ("v1", "Human: <question>###Assistant: <answer>\n###"),
        ("default", "Human: <question>###Assistant: <answer>\n###"),
    ],
)
def test_a_published_name_of_the_hashes_kind_has_its_layout(name: TemplateName, greeting: str):
    words = {
        "<greeting>": "Hello! What shall we look at?",
        "<question>": TEMPLATES["default"].greeting[0].text,
        "<answer>": TEMPLATES["default"].greeting[1].text.removesuffix("\n"),
    }
    for mark, text in words.items():
        greeting = greeting.replace(mark, text)
    begun = f"</s>Be brief.###{greeting}Human: Which organ?###"

    assert written(name, "Which organ?", opens_answer=True) == begun + "Assistant:"
    # as LLaVA-Med's evaluation asked: the model writes its role itself
    assert written(name, "Which organ?") == begun
    assert written(name, "Which organ?", "Lung.") == begun + "Assistant: Lung.###"


@pytest.mark.parametrize(
    ("name", "answerer"),
    [("llava_v1", "ASSISTANT"), ("vicuna_v1_1", "ASSISTANT"), ("bair_v1", "GPT")],
)
def test_a_published_name_of_the_vicuna_kind_has_its_layout(name: TemplateName, answerer: str):
    begun = f"</s>Be brief. USER: Which organ? {answerer}:"

    assert written(name, "Which organ?", opens_answer=True) == begun
    assert written(name, "Which organ?", "Lung.") == begun + " Lung.</s>"


def test_default_and_v1_are_two_names_of_one_template():
    assert replace(TEMPLATES["default"], name="v1") == TEMPLATES["v1"]


@pytest.mark.parametrize(
    ("names", "says_images"),
    [(("v0", "multimodal", "llava_v1"), True), (("simple", "v1", "vicuna_v1_1"), False)],
)
def test_templates_share_their_system_text(names: tuple[TemplateName, ...], *, says_images: bool):
    [text] = {TEMPLATES[name].system for name in names}

    assert ("images" in text) == says_images


def written(name: TemplateName, *texts: str, opens_answer: bool = False) -> str:
    return _as_text(name, talk(*texts, system="Be brief."), "<image>", opens_answer=opens_answer)


# -------------------------------------------------------------------------------------- tokens


def test_stretches_of_text_are_tokenised_whole():
    conversation = talk("Which organ?", "Lung.", "Sure?", "Yes.", system="Be brief.")
    pieces = write(TEMPLATES["v0_training"], conversation)
    text = "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))

    prompt = TOKENISER.tokenise(pieces)

    assert text == (
        "Be brief.\n\n### Human: Which organ?\n### Assistant: Lung.\n"
        "### Human: Sure?\n### Assistant: Yes.\n### "
    )
    assert prompt.token_ids == [EOS_ID, *TOKENIZER.encode(text, add_special_tokens=False).ids]


def test_the_beginning_is_the_checkpoints():
    pieces = write(TEMPLATES["llava_v1"], talk("Hi"), opens_answer=True)

    with_s = PromptTokeniser(TOKENIZER, SpecialIds(BOS_ID, EOS_ID), IMAGE).tokenise(pieces)
    without = PromptTokeniser(TOKENIZER, SpecialIds(None, EOS_ID), IMAGE).tokenise(pieces)

    assert TOKENISER.tokenise(pieces).token_ids[0] == EOS_ID
    assert with_s.token_ids == [BOS_ID, *without.token_ids]


@pytest.mark.parametrize("literal", ["</s>", "<s>", "<im_patch>", "<im_start>", "[PAD]"])
def test_special_tokens_that_somebody_types_are_text(literal: str):
    plain = tokenised("llava_v1", talk("Is it so?"), opens_answer=True)

    prompt = tokenised("llava_v1", talk(f"Is {literal} it so?"), opens_answer=True)

    special = {UNK_ID, BOS_ID, *ADDED_IDS}
    assert not special & set(prompt.token_ids)
    assert prompt.token_ids.count(EOS_ID) == plain.token_ids.count(EOS_ID) == 1
    assert literal in TOKENIZER.decode(prompt.token_ids[1:])


@given(st.lists(st.text(max_size=12), min_size=1, max_size=5), st.sampled_from(NAMES))
def test_any_texts_give_one_mask_entry_per_token_and_train_every_answer(
    texts: list[str], name: TemplateName
):
    turns = [Turn(("user", "assistant")[i % 2], (text,)) for i, text in enumerate(texts)]

    prompt = tokenised(name, Conversation(tuple(turns)))

    assert len(prompt.is_trained) == len(prompt.token_ids)
    if any(text.strip() for text in texts[1::2]):
        assert any(prompt.is_trained)


# -------------------------------------------------------------------------------------- images


def test_d1_each_of_several_images_has_its_own_place():
    prompt = tokenised("v0", talk("<image> and <image>", "Two.", "And <image>?"))

    assert len(prompt.image_spans) == 3
    assert [end - start for start, end in prompt.image_spans] == [len(IMAGE.ids)] * 3
    assert all(
        a[1] < b[0] for a, b in zip(prompt.image_spans, prompt.image_spans[1:], strict=False)
    )


def test_d2_d3_a_text_without_a_marker_takes_no_image():
    prompt = tokenised("v0", talk("Which organ?", "Lung."))

    assert prompt.image_spans == []
    assert not {PATCH_ID, START_ID, END_ID} & set(prompt.token_ids)


def test_d6_truncation_never_cuts_an_image():
    prompt = tokenised("v0_training", talk("<image>\nOne", "Two", "<image>\nThree", "Four"))
    (first, second), length = prompt.image_spans, len(prompt.token_ids)

    for max_tokens in range(1, length + 5):
        cut = prompt.truncated(max_tokens)
        assert len(cut.token_ids) == len(cut.is_trained) <= max_tokens
        assert cut.token_ids == prompt.token_ids[: len(cut.token_ids)]
        assert cut.image_spans == [span for span in (first, second) if span[1] <= max_tokens]
        num_starts = cut.token_ids.count(START_ID)
        assert num_starts == cut.token_ids.count(END_ID) == len(cut.image_spans)


# ------------------------------------------------------------------------------- conversations


@pytest.mark.parametrize("name", NAMES)
def test_turns_that_do_not_alternate_are_refused(name: TemplateName):
    twice = Conversation((Turn("user", ("a",)), Turn("user", ("b",))))

    with pytest.raises(ConversationError, match="turn 1 is the user's"):
        write(TEMPLATES[name], twice)
    with pytest.raises(ConversationError, match="the last turn must be the user's"):
        write(TEMPLATES[name], talk("a", "b"), opens_answer=True)


@pytest.mark.parametrize("system", [None, "Be brief.", ""])
@pytest.mark.parametrize("texts", [("Hi",), ("<image>\nHi", "Ho", "And\n<image>")])
@pytest.mark.parametrize("name", NAMES)
def test_the_jinja_template_writes_the_same_bytes(
    name: TemplateName, texts: tuple[str, ...], system: str | None
):
    conversation = talk(*texts, system=system)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=TOKENIZER, bos_token="</s>", eos_token="</s>"
    )
    image_text = "<im_start><im_patch><im_end>"

    rendered = tokenizer.apply_chat_template(
        _as_messages(conversation),
        chat_template=jinja_of(TEMPLATES[name], image_text),
        tokenize=False,
        add_generation_prompt=True,
    )

    assert rendered == _as_text(name, conversation, image_text)


def _as_messages(conversation: Conversation) -> Any:  # transformers' type of it is too narrow
    turns: list[dict[str, Any]] = [
        {
            "role": turn.role,
            "content": [
                {"type": "image"} if isinstance(p, ImageSlot) else {"type": "text", "text": p}
                for p in turn.parts
            ],
        }
        for turn in conversation.turns
    ]
    if conversation.system is None:
        return turns
    return [{"role": "system", "content": conversation.system}, *turns]


def _as_text(
    name: TemplateName, conversation: Conversation, image_text: str, *, opens_answer: bool = True
) -> str:
    pieces = write(TEMPLATES[name], conversation, opens_answer=opens_answer)
    kinds = {"ImagePiece": image_text, "SpecialPiece": "</s>"}
    return "".join(
        piece.text if isinstance(piece, TextPiece) else kinds[type(piece).__name__]
        for piece in pieces
    )


# -------------------------------------------------------------------------------------- golden


def test_prompts_and_masks_are_those_of_the_golden_file(golden: GoldenFiles):
    conversation = talk("<image>\nWhich organ?", "Lung.", "Is it enlarged?", "No.")

    golden.check("conversation_templates.txt", "\n".join(_shown(n, conversation) for n in NAMES))


def _shown(name: TemplateName, conversation: Conversation) -> str:
    """One line per token: T where it is trained, its id, what it says."""
    prompt = tokenised(name, conversation)
    lines = [f"== {name}"]
    for token_id, is_trained in zip(prompt.token_ids, prompt.is_trained, strict=True):
        mark = "T" if is_trained else "-"
        lines.append(f"{mark} {token_id:4} {TOKENIZER.id_to_token(token_id)!a}")
    return "\n".join(lines) + "\n"
