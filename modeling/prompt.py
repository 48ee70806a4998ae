"""A conversation's token ids and its loss mask, made together in one pass.

The whole prompt is tokenised at once, as every library does with rendered text, and the loss counts
a token that has a trained character: a word's token begins with the space before it, which belongs
to the role. So the mask needs no second look at the text and no counting of word pieces. What does
*not* live here: what a template writes (`conversation_templates.py`, `own_template.py`).
"""

import itertools
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenizers import AddedToken, Tokenizer

from modeling.conversation_templates import (
    ImagePiece,
    Piece,
    SpecialPiece,
    TextPiece,
    TokenPiece,
)

IGNORE_INDEX = -100
"""Label of a token without loss (torch.nn.CrossEntropyLoss)."""


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """What stands for one image.

    Args:
        ids: all of its tokens, such as start, patches, end.
    """

    ids: tuple[int, ...]

    @classmethod
    def of(
        cls,
        patch_id: int,
        num_patches: int,
        *,
        start_id: int | None = None,
        end_id: int | None = None,
    ) -> "ImageTokens":
        """Return `num_patches` placeholders, between start and end where a checkpoint has them."""
        start = () if start_id is None else (start_id,)
        end = () if end_id is None else (end_id,)
        return cls((*start, *([patch_id] * num_patches), *end))


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids of a checkpoint's special tokens; LLaVA-Med v1.0 begins with `</s>`, v1.5 with `<s>`.

    Args:
        bos: None where prompts have none.
    """

    bos: int | None
    eos: int


@dataclass(slots=True)
class TokenisedPrompt:
    """A conversation as a model reads it.

    Args:
        token_ids: L of them.
        is_trained: whether the loss counts a token; as many.
        image_spans: first token and the one after the last, of each image in its order.
    """

    token_ids: list[int] = field(default_factory=list)
    is_trained: list[bool] = field(default_factory=list)
    image_spans: list[tuple[int, int]] = field(default_factory=list)

    @property
    def labels(self) -> list[int]:
        """Token ids, `IGNORE_INDEX` where the loss does not count."""
        return [
            token_id if is_trained else IGNORE_INDEX
            for token_id, is_trained in zip(self.token_ids, self.is_trained, strict=True)
        ]

    def truncated(self, max_tokens: int) -> "TokenisedPrompt":
        """Return the first tokens, at most `max_tokens`; an image that would be cut is left out.

        The spans that are left say which images still belong to it: always the first ones.
        """
        cut = [start for start, end in self.image_spans if end > max_tokens]
        length = min([max_tokens, len(self.token_ids), *cut])
        spans = [span for span in self.image_spans if span[1] <= length]
        return TokenisedPrompt(self.token_ids[:length], self.is_trained[:length], spans)


class PromptTokeniser:
    """Turns a template's pieces into tokens.

    In texts of users even special tokens are ordinary text here. So the tokenizer is copied, the
    copy does not know special tokens, and each one that a template writes has a twin there: an
    added token of the same kind under a name that nobody can type. Everything around it (spaces
    that it swallows, the space before a first word or before each stretch) is the tokenizer's own.

    Args:
        tokenizer: the backend of a fast tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer, special_ids: SpecialIds, image: ImageTokens) -> None:
        self._added = tokenizer.get_added_tokens_decoder()
        placeholders = set(image.ids) & set(self._added)
        self._special = {i for i, token in self._added.items() if token.special} | placeholders
        self._tokenizer = _plain_copy(tokenizer, placeholders)
        self._special_ids = special_ids
        self._image = image
        self._nonce = secrets.token_hex(8)
        self._twins: dict[int, str] = {}
        self._stands_for: dict[int, tuple[str, int]] = {}  # of a twin's id: its name, the token
        self._image_twin, self._image_twin_id = self._add_twin(image.ids[0], image.ids[-1])

    def tokenise(
        self, pieces: Sequence[Piece], images: Sequence[ImageTokens] | None = None
    ) -> TokenisedPrompt:
        """Return the tokens of a conversation, image placeholders included.

        Args:
            images: what stands for each image, where they differ; one for each `ImagePiece`.
        """
        num_images = sum(isinstance(piece, ImagePiece) for piece in pieces)
        if images is not None and len(images) != num_images:
            raise ValueError(f"{len(images)} images for {num_images} places; give one for each")
        before = list(itertools.takewhile(_is_outside, pieces))
        inside = [piece for piece in pieces if not _is_outside(piece)]
        prompt = TokenisedPrompt()
        _add_outside(prompt, before)
        self._add_inside(prompt, inside, images or [self._image] * num_images)
        _add_outside(prompt, [piece for piece in pieces[len(before) :] if _is_outside(piece)])
        return prompt

    def _add_inside(
        self, prompt: TokenisedPrompt, pieces: Sequence[Piece], images: Sequence[ImageTokens]
    ) -> None:
        texts = [self._text_of(piece) for piece in pieces]
        flags = (not isinstance(piece, ImagePiece) and piece.is_trained for piece in pieces)
        trained_at = b"".join(
            (b"\1" if is_trained else b"\0") * len(text)
            for is_trained, text in zip(flags, texts, strict=True)
        )
        whole = "".join(texts)
        encoding = self._tokenizer.encode(whole, add_special_tokens=False)
        rare = {self._image_twin_id, *self._stands_for, *self._special}
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id not in rare:  # nearly all; training tokenises millions of them
                prompt.token_ids.append(token_id)
                prompt.is_trained.append(trained_at.find(1, start, end) >= 0)
                continue
            if token_id == self._image_twin_id:
                first, ids = len(prompt.token_ids), images[len(prompt.image_spans)].ids
                prompt.image_spans.append((first, first + len(ids)))
                is_trained = False
            elif token_id in self._stands_for:
                twin, own_id = self._stands_for[token_id]
                ids = (own_id,)
                # the offsets may hold white space that the token swallows
                is_trained = bool(trained_at[whole.index(twin, start)])
            else:
                ids = self._text_ids(token_id, whole[start:end])
                is_trained = 1 in trained_at[start:end]
            prompt.token_ids.extend(ids)
            prompt.is_trained.extend([is_trained] * len(ids))

    def _text_of(self, piece: Piece) -> str:
        """Return what is written for a piece in the text that is tokenised."""
        match piece:
            case TextPiece():
                return piece.text
            case ImagePiece():
                return self._image_twin
            case TokenPiece():
                return self._twin(piece.token_id)
            case SpecialPiece("bos"):
                bos_id = self._special_ids.bos
                return "" if bos_id is None else self._twin(bos_id)
            case SpecialPiece():
                return self._twin(self._special_ids.eos)

    def _twin(self, token_id: int) -> str:
        """Return a token's twin; it is made when first needed."""
        if token_id not in self._twins:
            name, twin_id = self._add_twin(token_id, token_id)
            self._twins[token_id] = name
            self._stands_for[twin_id] = (name, token_id)
        return self._twins[token_id]

    def _add_twin(self, first_id: int, last_id: int) -> tuple[str, int]:
        """Teach the copy a name for tokens from `first_id` to `last_id`; returns it and its id."""
        name = f"\ue000{self._nonce}{self._tokenizer.get_vocab_size()}\ue001"
        first, last = self._added.get(first_id), self._added.get(last_id)
        token = AddedToken(
            name,
            lstrip=first is not None and first.lstrip,
            rstrip=last is not None and last.rstrip,
            normalized=False,  # a normaliser that writes a space would change the name, too
        )
        self._tokenizer.add_tokens([token])
        twin_id = self._tokenizer.token_to_id(name)
        assert twin_id is not None  # noqa: S101 (it was added)
        return name, twin_id

    def _text_ids(self, token_id: int, text: str) -> tuple[int, ...]:
        """Return a token of a text, or others where a vocabulary holds `</s>` whole (Unigram)."""
        if token_id not in self._special or self._added[token_id].content not in text:
            return (token_id,)
        halves = (text[:1], text[1:])
        found = (self._tokenizer.encode(half, add_special_tokens=False).ids for half in halves)
        return tuple(itertools.chain.from_iterable(found))


def _plain_copy(tokenizer: Tokenizer, more: set[int]) -> Tokenizer:
    """Return a tokenizer to which special tokens, and `more` of the added ones, are plain text."""
    state = tokenizer.to_str()
    if any(not tokenizer.get_added_tokens_decoder()[i].special for i in more):
        parsed = json.loads(state)
        for token in parsed["added_tokens"]:
            token["special"] = token["special"] or token["id"] in more
        state = json.dumps(parsed)
    copy = Tokenizer.from_str(state)
    copy.encode_special_tokens = True
    copy.no_padding()
    copy.no_truncation()
    return copy


def _is_outside(piece: Piece) -> bool:
    return isinstance(piece, TokenPiece) and not piece.is_in_text


def _add_outside(prompt: TokenisedPrompt, pieces: Sequence[Piece]) -> None:
    for piece in pieces:
        if isinstance(piece, TokenPiece):
            prompt.token_ids.append(piece.token_id)
            prompt.is_trained.append(piece.is_trained)
