"""The conversation templates of LLaVA-Med's two generations, as data, and what they write.

A template turns a conversation into pieces: text, images and special tokens, each with whether the
loss counts it. Training and serving take the same pieces. What does *not* live here: tokens
(`prompt.py`), and the same templates for libraries that render by themselves (`chat_template.py`).

Layouts and masks are facts of LLaVA-Med v1.0.0 and v1.5 (arXiv:2306.00890 and its published code,
read at commits b9a98a7 and d406e3f). System texts and greeting are our own words; weights that were
trained with other ones get them through `Conversation.system`.
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
_GREETING = (Turn("user", ("Hello!",)), Turn("assistant", ("Hello! What shall we look at?\n",)))

TemplateName = Literal["v0", "v0_training", "v1", "vicuna_v1_1", "mistral_instruct"]


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


def _vicuna(name: TemplateName, system: str) -> ConversationTemplate:
    """`system USER: text ASSISTANT: text</s>` (FastChat's Vicuna v1.1)."""
    return ConversationTemplate(
        name,
        system,
        after_system=" ",
        before_question=(TextPiece("USER: "),),
        after_question=(TextPiece(" "),),
        before_answer=(TextPiece("ASSISTANT: "),),
        after_answer=(SpecialPiece("eos", is_trained=True),),
        opening="ASSISTANT:",
    )


# How the published v1.0 weights are asked: `system###Human: text###Assistant: text###`. They were
# trained with the next one: other white space, another header, no greeting.
_V0 = ConversationTemplate(
    "v0",
    PERSONA,
    after_system="###",
    before_question=(TextPiece("Human: "),),
    after_question=(TextPiece("###"),),
    before_answer=(TextPiece("Assistant: "),),
    after_answer=(TextPiece("###", is_trained=True),),
    opening="Assistant:",
    stop="###",
    greeting=_GREETING,
)
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

TEMPLATES: dict[TemplateName, ConversationTemplate] = {
    template.name: template
    for template in (
        _V0,
        _V0_TRAINING,
        _vicuna("v1", PERSONA),
        _vicuna("vicuna_v1_1", _CURIOUS),
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
