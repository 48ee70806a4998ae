"""The conversation templates of LLaVA-Med's two generations, as data, and what they write.

A template turns a conversation into pieces: text, images and special tokens, each with whether the
loss counts it. Training and serving take the same pieces. What does *not* live here: tokens
(`prompt.py`), and the same templates for libraries that render by themselves (`chat_template.py`).

Layouts and masks are facts of LLaVA-Med v1.0.0 and v1.5 (arXiv:2306.00890 and its published code,
read at commits b9a98a7 and d406e3f). System texts, greeting and example are our own words, but for
the user's `Hi!`; weights that were trained with another system text get it through
`Conversation.system`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from modeling.conversations import Conversation, ConversationError, ImageSlot, Turn

PERSONA = (
    "You are a careful biomedical assistant. You understand the images that the user shows and "
    "answer helpfully, in detail and politely."
)
_CURIOUS = (
    "A curious user talks with an artificial intelligence assistant, who answers helpfully, in "
    "detail and politely."
)
_WRITTEN = (
    "You are a careful biomedical assistant. You answer what the user asks in writing, helpfully, "
    "in detail and politely."
)
_BEGINNING = "Here a conversation begins."  # Koala's opener, for weights that know it: as `system`
_GREETED = Turn("assistant", ("Hello! What shall we look at?\n",))
_HI = (Turn("user", ("Hi!",)), _GREETED)
# The cue with which Stanford Alpaca's prompts end.
_HI_WITH_CUE = (Turn("user", ("Hi!\n\n### Response:",)), _GREETED)
_EXAMPLE = (
    Turn("user", ("What sets renewable energy apart from other energy?",)),
    Turn(
        "assistant",
        (
            "Its sources come back as fast as they are used: sun, wind, flowing water, plants and "
            "the heat of the ground. Coal, oil and gas took millions of years to form, so what is "
            "burnt of them is gone, and their smoke warms the climate.\n",
        ),
    ),
)

TemplateName = Literal[
    "v0", "v0_training", "default", "v1", "simple", "simple_legacy", "multimodal",
    "llava_v1", "vicuna_v1_1", "bair_v1", "mistral_instruct",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text that is tokenised; special tokens in it are plain text."""

    text: str
    is_trained: bool = False


@dataclass(frozen=True, slots=True)
class ImagePiece:
    """One image's tokens; never trained."""


@dataclass(frozen=True, slots=True)
class SpecialPiece:
    """One special token of the tokenizer."""

    token: Literal["bos", "eos"]
    is_trained: bool = False


@dataclass(frozen=True, slots=True)
class TokenPiece:
    """One token by its id, such as a template's own mark of a turn.

    Args:
        is_in_text: false of a token that the tokenizer adds by itself around a prompt: the text
            behind it counts as the first one then.
    """

    token_id: int
    is_trained: bool = False
    is_in_text: bool = True


Piece = TextPiece | ImagePiece | SpecialPiece | TokenPiece
FixedPieces = tuple[TextPiece | SpecialPiece, ...]


@dataclass(frozen=True, slots=True)
class ConversationTemplate:
    """How a conversation is written. Answers are trained, questions and the system text are not.

    Args:
        system: used where the conversation has none of its own.
        after_system: written even where the system text is empty, unless `is_system_asked`.
        end: written after the last turn, where no answer is opened.
        opening: text with which an answer is opened; the model goes on from there.
        stop: the text that ends an answer; None where the end-of-sequence token does.
        greeting: turns that stand before every conversation, not trained.
        is_system_asked: whether the system text stands inside the first question.
    """

    name: TemplateName
    system: str
    after_system: str
    before_question: FixedPieces
    after_question: FixedPieces
    before_answer: FixedPieces
    after_answer: FixedPieces
    opening: str
    end: FixedPieces = ()
    stop: str | None = None
    greeting: tuple[Turn, ...] = ()
    is_system_asked: bool = False


def _hashes(name: TemplateName, system: str, greeting: tuple[Turn, ...]) -> ConversationTemplate:
    """`system###Human: text###Assistant: text###`, as published v1.0 weights are asked.

    LLaVA-Med's scripts for chat and VQA ended a prompt behind the question's `###`, so that the
    model wrote `Assistant:` itself: that is `write` without `opens_answer`.
    """
    return ConversationTemplate(
        name,
        system,
        after_system="###",
        before_question=(TextPiece("Human: "),),
        after_question=(TextPiece("###"),),
        before_answer=(TextPiece("Assistant: "),),
        after_answer=(TextPiece("###", is_trained=True),),
        opening="Assistant:",
        stop="###",
        greeting=greeting,
    )


def _vicuna(name: TemplateName, system: str, answerer: str = "ASSISTANT") -> ConversationTemplate:
    """`system USER: text ASSISTANT: text</s>` (FastChat's Vicuna v1.1)."""
    return ConversationTemplate(
        name,
        system,
        after_system=" ",
        before_question=(TextPiece("USER: "),),
        after_question=(TextPiece(" "),),
        before_answer=(TextPiece(f"{answerer}: "),),
        after_answer=(SpecialPiece("eos", is_trained=True),),
        opening=f"{answerer}:",
    )


# How the published v1.0 weights were trained: other white space than `_hashes`, no greeting.
# The `###` before a question is trained: these models know no other sign of an answer's end. What
# opens an answer is trained as well: the model writes its own role.
_V0_TRAINING = ConversationTemplate(
    "v0_training",
    _CURIOUS,
    after_system="\n\n",
    before_question=(TextPiece("###", is_trained=True), TextPiece(" Human: ")),
    after_question=(TextPiece("\n"),),
    before_answer=(TextPiece("### Assistant: ", is_trained=True),),
    after_answer=(TextPiece("\n", is_trained=True),),
    opening="### Assistant:",
    end=(TextPiece("### ", is_trained=True),),
    stop="###",
)
_MISTRAL_INSTRUCT = ConversationTemplate(
    "mistral_instruct",
    "",
    after_system="\n\n",
    before_question=(TextPiece("[INST] "),),
    after_question=(TextPiece(" [/INST]"),),
    before_answer=(TextPiece(" "),),
    after_answer=(TextPiece(" ", is_trained=True), SpecialPiece("eos", is_trained=True)),
    opening="",
    is_system_asked=True,
)

# The names are LLaVA-Med's own, but for `v0` (`multimodal`) and `v0_training`.
# There, `v1` is of the `###` kind; and v1.0's training with `--version v1`, or any version but v0,
# wrote `vicuna_v1_1`.
TEMPLATES: dict[TemplateName, ConversationTemplate] = {
    template.name: template
    for template in (
        _hashes("v0", PERSONA, _HI),
        _V0_TRAINING,
        _hashes("default", _CURIOUS, _EXAMPLE),
        _hashes("v1", _CURIOUS, _EXAMPLE),
        _hashes("simple", _CURIOUS, _HI),
        _hashes("simple_legacy", _WRITTEN, _HI_WITH_CUE),
        _hashes("multimodal", PERSONA, _HI),
        _vicuna("llava_v1", PERSONA),
        _vicuna("vicuna_v1_1", _CURIOUS),
        _vicuna("bair_v1", _BEGINNING, answerer="GPT"),
        _MISTRAL_INSTRUCT,
    )
}


def write(
    template: ConversationTemplate, conversation: Conversation, *, opens_answer: bool = False
) -> list[Piece]:
    """Return a conversation's pieces, beginning-of-sequence token included.

    Args:
        opens_answer: end with what comes before the assistant's next words.

    Raises:
        ConversationError: the turns do not alternate, beginning with the user.
    """
    _check_turns(conversation, opens_answer=opens_answer)
    return list(_pieces(template, conversation, opens_answer=opens_answer))


def _check_turns(conversation: Conversation, *, opens_answer: bool) -> None:
    for index, turn in enumerate(conversation.turns):
        expected = "user" if index % 2 == 0 else "assistant"
        if turn.role != expected:
            raise ConversationError(
                f"turn {index} is the {turn.role}'s; user and assistant take turns, the user begins"
            )
    if opens_answer and len(conversation.turns) % 2 == 0:
        raise ConversationError("the last turn must be the user's: it is the one to be answered")


def _pieces(
    template: ConversationTemplate, conversation: Conversation, *, opens_answer: bool
) -> Iterator[Piece]:
    system = template.system if conversation.system is None else conversation.system
    header = TextPiece(system + template.after_system)
    is_asked = template.is_system_asked and bool(system)
    yield SpecialPiece("bos")
    if not template.is_system_asked:
        yield header
    for turn in template.greeting:
        yield from map(_untrained, turn_pieces(template, turn))
    for index, turn in enumerate(conversation.turns):
        yield from turn_pieces(template, turn, header if is_asked and index == 0 else None)
    if opens_answer:
        yield TextPiece(template.opening)
    else:
        yield from template.end


def _untrained(piece: Piece) -> Piece:
    return piece if isinstance(piece, ImagePiece) else replace(piece, is_trained=False)


def turn_pieces(
    template: ConversationTemplate, turn: Turn, header: TextPiece | None = None
) -> Iterator[Piece]:
    """Yield what stands for one turn.

    Args:
        header: written before the words of a question.
    """
    if turn.role == "assistant":
        yield from template.before_answer
        yield TextPiece(turn.text, is_trained=True)
        yield from template.after_answer
        return
    yield from template.before_question
    if header is not None:
        yield header
    for part in turn.parts:
        yield ImagePiece() if isinstance(part, ImageSlot) else TextPiece(part)
    yield from template.after_question
