"""One record of training data as tokens, by the code that serving uses.

Lives here: what a record must be, and its tokens with their loss mask. What does *not* live here:
the files (`records.py`), counting over all of them (`audit.py`), pixels (`features.py`).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from modeling.conversation_templates import (
    TEMPLATES,
    ImagePiece,
    Piece,
    TemplateName,
    TokenPiece,
    write,
)
from modeling.conversations import (
    IMAGE_MARKER,
    Conversation,
    ConversationError,
    ImageSlot,
    Turn,
    drop_leading_answer,
    parse_item,
)
from modeling.own_template import OwnTemplate
from modeling.prompt import ImageTokens, PromptTokeniser, SpecialIds, TokenisedPrompt
from training.errors import TrainingError
from training.processor import LlavaProcessing

START_TOKEN, END_TOKEN = "<im_start>", "<im_end>"
"""Around an image in LLaVA-Med v1.0 (arXiv:2306.00890)."""

_SPEAKERS = frozenset({"human", "gpt"})


class MalformedRecordError(ValueError):
    """A record that is no conversation; the message is its reason, without a word of its text."""


@dataclass(frozen=True, slots=True)
class Example:
    """A record's tokens.

    Args:
        record: its index over all files.
        images: names of the files that it shows, one for each of the prompt's image spans.
        prompt: at most `max_length` tokens.
        has_answer: somebody answers in it; else nothing of it is learnt.
        is_truncated: something was cut off; images that lost a token are not among `images`.
        has_dropped_answer: it began with an answer, which was left out.
    """

    record: int
    images: tuple[str, ...]
    prompt: TokenisedPrompt
    has_answer: bool = True
    is_truncated: bool = False
    has_dropped_answer: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens of images included."""
        return len(self.prompt.token_ids)

    @property
    def num_trained_tokens(self) -> int:
        """Labels that count: nothing foretells the first token."""
        return sum(self.prompt.is_trained[1:]) if self.has_answer else 0

    @property
    def shared_prefix_length(self) -> int:
        """Tokens that another question of the same images may share; 0: none.

        Up to the end of the last image, if no token up to there, nor the one behind it (which the
        last of them foretells), is trained.
        """
        if not self.prompt.image_spans:
            return 0
        end = self.prompt.image_spans[-1][1]
        return 0 if any(self.prompt.is_trained[: end + 1]) else end


class ExampleTokeniser:
    """Makes examples of records.

    Args:
        processing: of the checkpoint that is trained.
        conversation: a template's name; None takes the checkpoint's own.
        max_length: most tokens of an example.

    Attributes:
        fingerprint: hash of all that decides an example's tokens.
        image_ids: what stands for each image.

    Raises:
        TrainingError: the checkpoint's tokenizer lacks a token that the template needs.
    """

    def __init__(
        self, processing: LlavaProcessing, conversation: TemplateName | None, max_length: int
    ) -> None:
        self.max_length = max_length
        backend = processing.processor.tokenizer.backend_tokenizer
        image_id, num = processing.image_token_id, processing.num_image_tokens
        if conversation is None:
            self._named = None
            self._own = OwnTemplate(processing.processor)
            special = SpecialIds(bos=None, eos=image_id)  # an own template names its tokens by id
            image = ImageTokens.of(image_id, num)
        else:
            self._named = TEMPLATES[conversation]
            self._own = None
            special = _special_ids(processing)
            start_id, end_id = _around_images(processing)
            image = ImageTokens.of(image_id, num, start_id=start_id, end_id=end_id)
        self.image_ids = image.ids
        self._tokeniser = PromptTokeniser(backend, special, image)
        described = (backend.to_str(), self._named, processing.processor.chat_template)
        self.fingerprint = hashlib.sha256(
            repr((*described, special, image, max_length)).encode()
        ).hexdigest()

    def tokenise(self, index: int, record: Mapping[str, Any]) -> Example:
        """Return a record's example.

        Raises:
            MalformedRecordError: it is no conversation that alternates and shows its images.
        """
        images = image_names(record)
        conversation = _conversation_of(record)
        _check_images(len(images), conversation.num_images)
        try:
            conversation, dropped = drop_leading_answer(conversation)
        except ConversationError as error:
            raise MalformedRecordError("it holds one answer and no question") from error
        _check_turns(conversation, 0 if dropped is None else 1)
        whole = self._tokenise(conversation)
        prompt = whole.truncated(self.max_length)
        return Example(
            record=index,
            images=images[: len(prompt.image_spans)],
            prompt=prompt,
            has_answer=len(conversation.turns) > 1,
            is_truncated=len(prompt.token_ids) < len(whole.token_ids),
            has_dropped_answer=dropped is not None,
        )

    def question_ids(self, conversation: Conversation) -> list[int]:
        """Return the tokens of a conversation behind which the assistant answers.

        Raises:
            MalformedRecordError: the template refuses it.
        """
        return self._tokenise(conversation, opens_answer=True).token_ids

    def _tokenise(
        self, conversation: Conversation, *, opens_answer: bool = False
    ) -> TokenisedPrompt:
        try:
            if self._named is not None:
                pieces = write(self._named, conversation, opens_answer=opens_answer)
            else:
                assert self._own is not None  # noqa: S101 (one of the two is there)
                pieces = self._own.write(conversation, opens_answer=opens_answer)
            return self._tokeniser.tokenise(pieces)
        except ConversationError as error:
            raise MalformedRecordError(str(error)) from error


def image_names(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a record's image files, relative to the folder of images.

    Raises:
        MalformedRecordError: `image` is neither absent, a name, nor names, or leads elsewhere.
    """
    said = record.get("image")
    names = [] if said is None else [said] if isinstance(said, str) else said
    if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() for n in names):
        raise MalformedRecordError("`image` is neither a file's name nor a list of them")
    if any(map(_leads_elsewhere, names)):
        raise MalformedRecordError("`image` leads out of the image folder; give a name inside it")
    return tuple(names)


def _leads_elsewhere(name: str) -> bool:
    windows = PureWindowsPath(name)  # reads / and \ alike
    is_absolute = bool(windows.drive or windows.root) or PurePosixPath(name).is_absolute()
    return is_absolute or ".." in windows.parts or "\0" in name


def _conversation_of(record: Mapping[str, Any]) -> Conversation:
    for key in ("conversations", "conversatons"):
        turns = record.get(key)
        for number, turn in enumerate(turns if isinstance(turns, list) else ()):
            # said here, as `parse_item` repeats what stands there, which may be a text
            if isinstance(turn, Mapping) and turn.get("from") not in _SPEAKERS:
                raise MalformedRecordError(f"turn {number} is from neither 'human' nor 'gpt'")
    try:
        conversation = parse_item(record)
    except ConversationError as error:
        reason = str(error).removeprefix(f"item {record.get('id')!r}")
        raise MalformedRecordError(reason.lstrip(", ").removeprefix("has ")) from error
    for number, turn in enumerate(conversation.turns):
        if any(isinstance(part, str) and not _is_encodable(part) for part in turn.parts):
            raise MalformedRecordError(f"turn {number} holds half a surrogate pair")
    return conversation


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_images(num_files: int, num_places: int) -> None:
    if num_files == num_places:
        return
    if not num_places:
        raise MalformedRecordError(f"it has an image and no {IMAGE_MARKER} to say where it stands")
    if not num_files:
        raise MalformedRecordError(f"it has {IMAGE_MARKER} and names no image")
    raise MalformedRecordError(
        f"it names {num_files} images and has {IMAGE_MARKER} {num_places} times"
    )


def _check_turns(conversation: Conversation, num_dropped: int) -> None:
    for number, turn in enumerate(conversation.turns):
        if turn.role != ("user", "assistant")[number % 2]:
            speaker = "human" if turn.role == "user" else "gpt"
            raise MalformedRecordError(
                f"turn {number + num_dropped} is from {speaker!r} like the one before it; "
                "'human' and 'gpt' must take turns"
            )


def _special_ids(processing: LlavaProcessing) -> SpecialIds:
    tokenizer = processing.processor.tokenizer
    if tokenizer.eos_token_id is None:
        raise TrainingError(
            f"{processing.path}: its tokenizer has no eos_token, which model.conversation needs; "
            "unset model.conversation to use its own chat template"
        )
    return SpecialIds(tokenizer.bos_token_id, tokenizer.eos_token_id)


def _around_images(processing: LlavaProcessing) -> tuple[int | None, int | None]:
    """Return the ids of the tokens around images; None: this checkpoint has none there.

    Its own chat template says so; where there is none, that its tokenizer knows them does.
    """
    known: Mapping[str, int] = processing.processor.tokenizer.get_added_vocab()
    start_id, end_id = known.get(START_TOKEN), known.get(END_TOKEN)
    if start_id is None or end_id is None:
        return None, None
    if getattr(processing.processor, "chat_template", None):
        turn = Turn("user", (ImageSlot(), "?"))
        try:
            pieces = OwnTemplate(processing.processor).write(Conversation((turn,)))
        except ConversationError:
            return None, None
        if not _is_wrapped(pieces, start_id, end_id):
            return None, None
    return start_id, end_id


def _is_wrapped(pieces: list[Piece], start_id: int, end_id: int) -> bool:
    at = pieces.index(ImagePiece())
    around = (*pieces[:at][-1:], *pieces[at + 1 : at + 2])
    ids = [piece.token_id for piece in around if isinstance(piece, TokenPiece)]
    return ids == [start_id, end_id]
