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
from typing import Literal

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
        self._twins: dict[_Written, str] = {}
        self._stands_for: dict[int, tuple[str, tuple[int, ...]]] = {}  # of a twin's id

    def tokenise(self, pieces: Sequence[Piece]) -> TokenisedPrompt:
        """Return the tokens of a conversation, image placeholders included."""
        before = list(itertools.takewhile(_is_outside, pieces))
        inside = [piece for piece in pieces if not _is_outside(piece)]
        prompt = TokenisedPrompt()
        _add_outside(prompt, before)
        self._add_text(prompt, inside)
        _add_outside(prompt, [piece for piece in pieces[len(before) :] if _is_outside(piece)])
        return prompt

    def _add_text(self, prompt: TokenisedPrompt, pieces: Sequence[Piece]) -> None:
        texts = [self._text_of(piece) for piece in pieces]
        trained_at = [
            not isinstance(piece, ImagePiece) and piece.is_trained
            for piece, text in zip(pieces, texts, strict=True)
            for _ in text
        ]
        whole = "".join(texts)
        encoding = self._tokenizer.encode(whole, add_special_tokens=False)
        for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token_id in self._stands_for:
                twin, ids = self._stands_for[token_id]
                # the offsets may hold white space that the token swallows
                is_trained = trained_at[whole.index(twin, start)]
                if twin == self._twins.get("image"):
                    at = len(prompt.token_ids)
                    prompt.image_spans.append((at, at + len(ids)))
            else:
                text = whole[start:end]
                is_literal = token_id in self._special and self._added[token_id].content in text
                ids = self._plain_ids(text) if is_literal else (token_id,)
                is_trained = any(trained_at[start:end])
            prompt.token_ids.extend(ids)
            prompt.is_trained.extend([is_trained] * len(ids))

    def _text_of(self, piece: Piece) -> str:
        """Return what is written for a piece in the text that is tokenised."""
        match piece:
            case TextPiece():
                return piece.text
            case ImagePiece():
                return self._twin("image")
            case TokenPiece():
                return self._twin(piece.token_id)
            case SpecialPiece("bos"):
                bos_id = self._special_ids.bos
                return "" if bos_id is None else self._twin(bos_id)
            case SpecialPiece():
                return self._twin(self._special_ids.eos)

    def _twin(self, written: "_Written") -> str:
        """Return the twin's name; it is made, and taught to the copy, when first needed."""
        if written in self._twins:
            return self._twins[written]
        ids = self._image.ids if written == "image" else (written,)
        name = f"\ue000{self._nonce}{len(self._twins)}\ue001"
        first, last = self._added.get(ids[0]), self._added.get(ids[-1])
        token = AddedToken(
            name,
            lstrip=first is not None and first.lstrip,
            rstrip=last is not None and last.rstrip,
            normalized=False,  # a normaliser that writes a space would change the name, too
        )
        self._tokenizer.add_tokens([token])
        self._twins[written] = name
        twin_id = self._tokenizer.token_to_id(name)
        assert twin_id is not None  # noqa: S101 (it was added)
        self._stands_for[twin_id] = (name, ids)
        return name

    def _plain_ids(self, literal: str) -> tuple[int, ...]:
        """Return the ids of a special token's text, for models whose vocabulary holds it whole."""
        halves = (literal[:1], literal[1:])
        found = (self._tokenizer.encode(half, add_special_tokens=False).ids for half in halves)
        return tuple(itertools.chain.from_iterable(found))


_Written = int | Literal["image"]
"""What has a twin: a token, or an image's tokens together."""


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
