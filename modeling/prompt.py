"""A conversation's token ids and its loss mask, made together in one pass.

Every stretch of text between special tokens is tokenised as a whole, as the published models were
trained, and the loss counts a token that has a trained character: a word's token begins with the
space before it, which belongs to the role. So the mask needs no second look at the text and no
counting of word pieces. What does *not* live here: what a template writes
(`conversation_templates.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from modeling.conversation_templates import ImagePiece, Piece, SpecialPiece, TextPiece

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

    Args:
        tokenizer: the backend of a fast tokenizer; it is copied, because in texts of users even
            special tokens are ordinary text here.
    """

    def __init__(self, tokenizer: Tokenizer, special_ids: SpecialIds, image: ImageTokens) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._special_ids = special_ids
        self._image = image

    def tokenise(self, pieces: Sequence[Piece]) -> TokenisedPrompt:
        """Return the tokens of a conversation, image placeholders included."""
        prompt = TokenisedPrompt()
        for stretch in _stretches(pieces):
            match stretch:
                case SpecialPiece("bos"):
                    if self._special_ids.bos is not None:
                        self._add(prompt, [self._special_ids.bos], [stretch.is_trained])
                case SpecialPiece():
                    self._add(prompt, [self._special_ids.eos], [stretch.is_trained])
                case ImagePiece():
                    start = len(prompt.token_ids)
                    self._add(prompt, self._image.ids, [False] * len(self._image.ids))
                    prompt.image_spans.append((start, len(prompt.token_ids)))
                case _:
                    self._add_texts(prompt, stretch)
        return prompt

    def _add_texts(self, prompt: TokenisedPrompt, texts: Sequence[TextPiece]) -> None:
        encoding = self._tokenizer.encode("".join(t.text for t in texts), add_special_tokens=False)
        trained_at = [text.is_trained for text in texts for _ in text.text]
        is_trained = [any(trained_at[start:end]) for start, end in encoding.offsets]
        self._add(prompt, encoding.ids, is_trained)

    def _add(self, prompt: TokenisedPrompt, ids: Sequence[int], is_trained: Sequence[bool]) -> None:
        prompt.token_ids.extend(ids)
        prompt.is_trained.extend(is_trained)


def _stretches(
    pieces: Sequence[Piece],
) -> Iterator[SpecialPiece | ImagePiece | list[TextPiece]]:
    """Yield neighbouring texts together, everything else by itself."""
    texts: list[TextPiece] = []
    for piece in pieces:
        if isinstance(piece, TextPiece):
            if piece.text:
                texts.append(piece)
            continue
        if texts:
            yield texts
            texts = []
        yield piece
    if texts:
        yield texts
