"""A conversation to model inputs, through the checkpoint's own processor and chat template.

A LLaVA's ids come from the code that training uses (`own_prompt.py`); other processors make them of
rendered text. Lives here: conversion to the content lists of transformers, and keeping what a user
types apart from what the template says: a literal `<image>` or `</s>` in a text part is ordinary
text. What does *not* live here: the context limit (`batch_scheduler.py`).
"""

import copy
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer
from transformers import LlavaProcessor, ProcessorMixin

from modeling.image_recipe import apply_recipe
from modeling.own_template import TemplateError
from services.protocol.messages import (
    GenerationRequest,
    ImagePart,
    ImageRecipe,
    Message,
    TextPart,
)
from services.worker.engines.image_inputs import expand, image_inputs, num_image_tokens
from services.worker.engines.own_prompt import OwnPrompts

log = structlog.get_logger(__name__)

# Text before a literal, so that a tokenizer that begins every text with a space does so there.
_ANCHORS = ("\n", "a", ".", "")


class PromptError(ValueError):
    """The chat template or the processor refuses this conversation."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Inputs of one prefill.

    Args:
        inputs: keyword arguments of the model's forward: `input_ids` long [1, L], masks of the same
            shape, pixels as the model wants them; on the CPU.
        token_ids: the prompt, image tokens included, L of them.
        num_image_tokens: how many of them are placeholders of images.
    """

    inputs: dict[str, Any]  # tensors, and whatever else a processor gives to its model
    token_ids: list[int]
    num_image_tokens: int


class PromptBuilder:
    """Renders, tokenises and preprocesses conversations; not thread-safe.

    Where `OwnPrompts` does not do it: every special token that occurs in user text is replaced by a
    sentinel before the template runs; the sentinel is one added token of a *copy* of the processor,
    so everything around it is rendered, expanded and tokenised natively. Afterwards the sentinel's
    id makes room for the ids of the literal as plain text. Text without literals takes the
    untouched processor.

    Args:
        recipe: how images are brought to the model's size; None leaves it to the processor.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        image_token_id: int | None,
        recipe: ImageRecipe | None = None,
    ) -> None:
        self._processor = processor
        self._image_token_id = image_token_id
        self._recipe = recipe
        tokenizer = _tokenizer_of(processor)
        literals = {
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if token.special and token.content
        }
        literals |= {token for token in _placeholder_texts(processor) if token}
        self._literals = re.compile(
            "|".join(re.escape(text) for text in sorted(literals, key=len, reverse=True)) or r"(?!)"
        )
        # Nobody can type a sentinel: it holds a number drawn at start.
        self._nonce = secrets.token_hex(8)
        self._escaping: ProcessorMixin | None = None
        self._plain: Tokenizer | None = None
        self._sentinels: dict[str, str] = {}
        self._literal_ids: dict[int, list[int]] = {}
        self.takes_lists = self._template_takes_lists()
        self._own: OwnPrompts | None = None
        if type(processor) is LlavaProcessor and image_token_id is not None:
            self._own = OwnPrompts(processor, image_token_id)

    def build_for(self, request: GenerationRequest, images: Sequence[Image.Image]) -> Prompt:
        """Return the prompt of a request, whichever kind it is; raises what `build` raises."""
        if not request.is_raw:
            return self.build(request.messages, images)
        input_ids_1L = torch.tensor([self._raw_ids(request)])
        inputs = {"input_ids": input_ids_1L, "attention_mask": torch.ones_like(input_ids_1L)}
        return Prompt(inputs, input_ids_1L[0].tolist(), 0)

    def ids_for(self, request: GenerationRequest, images: Sequence[Image.Image]) -> list[int]:
        """Return the token ids of a request, as `build_unexpanded` does; raises PromptError."""
        if request.is_raw:
            return self._raw_ids(request)
        return self.build_unexpanded(request.messages, images)

    def _raw_ids(self, request: GenerationRequest) -> list[int]:
        """Return the ids of a text as it stands, begun as the tokenizer begins every text."""
        text = "".join(p.text for m in request.messages for p in m.parts if isinstance(p, TextPart))
        token_ids = self._plain_tokenizer().encode(text).ids
        if not token_ids:
            raise PromptError("an empty text, and a tokenizer that begins none")
        if self._image_token_id in token_ids:
            raise PromptError("the placeholder of an image, which this tokenizer takes for no text")
        return token_ids

    def _plain_tokenizer(self) -> Tokenizer:
        """Return a copy of the tokenizer to which special tokens in a text are text."""
        if self._plain is None:
            backend: Tokenizer = _tokenizer_of(self._processor).backend_tokenizer
            self._plain = Tokenizer.from_str(backend.to_str())
            self._plain.encode_special_tokens = True
        return self._plain

    def build(self, messages: Sequence[Message], images: Sequence[Image.Image]) -> Prompt:
        """Return the prompt of a conversation, with the assistant's turn opened.

        Raises:
            PromptError: the template or the processor refuses it.
        """
        if self._own is not None:
            return self._build_llava(messages, images)
        conversation = self._to_conversation(messages, self.fitted(images))
        has_literals = self._has_literals(messages)
        processor = self._escaping if has_literals and self._escaping else self._processor
        try:
            rendered: Any = processor.apply_chat_template(
                conversation,
                tokenize=True,
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
            )
            inputs: dict[str, Any] = dict(rendered)
        except Exception as error:  # templates raise what they like: jinja2, TypeError, ValueError
            raise PromptError(type(error).__name__) from error
        if has_literals:
            inputs = self._with_literals(inputs)
        token_ids = inputs["input_ids"][0].tolist()
        num_image_tokens = token_ids.count(self._image_token_id) if images else 0
        return Prompt(inputs, token_ids, num_image_tokens)

    def _build_llava(self, messages: Sequence[Message], images: Sequence[Image.Image]) -> Prompt:
        """Build a LLaVA's prompt: no more than placeholders, and the pixels beside them."""
        processor: Any = self._processor
        unexpanded = self.build_unexpanded(messages, images)
        try:
            pixels = image_inputs(images, processor.image_processor, self._recipe)
        except Exception as error:  # image processors raise what they like
            raise PromptError(type(error).__name__) from error
        counts = list(num_image_tokens(pixels, processor))
        if self._image_token_id is None or unexpanded.count(self._image_token_id) != len(counts):
            raise PromptError("the chat template leaves images out")
        token_ids = expand(unexpanded, self._image_token_id, counts)
        input_ids_1L = torch.tensor([token_ids])
        inputs = {"input_ids": input_ids_1L, "attention_mask": torch.ones_like(input_ids_1L)}
        return Prompt({**inputs, **pixels}, token_ids, sum(counts))

    def build_unexpanded(
        self, messages: Sequence[Message], images: Sequence[Image.Image]
    ) -> list[int]:
        """Return the token ids of a conversation with one placeholder per image, as templates say.

        For an inference library that expands and preprocesses images by itself. What the processor
        does to text besides that, `build` does too.

        Raises:
            PromptError: the template refuses it.
        """
        _check_places(messages, images)
        if self._own is not None:
            try:
                return self._own.token_ids(messages)
            except TemplateError as error:  # what it does to texts, it does below as well
                log.debug("engine.template.rendered_natively", reason=str(error))
        conversation = self._to_conversation(messages, images)
        has_literals = self._has_literals(messages)
        processor = self._escaping if has_literals and self._escaping else self._processor
        tokenizer = _tokenizer_of(processor)
        try:
            text: Any = processor.apply_chat_template(conversation, add_generation_prompt=True)
            # as `apply_chat_template(tokenize=True)` decides it
            begins = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
            token_ids: list[int] = tokenizer(text, add_special_tokens=not begins)["input_ids"]
        except Exception as error:  # templates raise what they like: jinja2, TypeError, ValueError
            raise PromptError(type(error).__name__) from error
        if not has_literals:
            return token_ids
        return [i for token_id in token_ids for i in self._literal_ids.get(token_id, [token_id])]

    def fitted(self, images: Sequence[Image.Image]) -> list[Image.Image]:
        """Return images as the recipe wants them: unchanged, where the gateway saw to it."""
        if self._recipe is None:
            return list(images)
        return [apply_recipe(image, self._recipe) for image in images]

    def _has_literals(self, messages: Sequence[Message]) -> bool:
        return any(
            self._literals.search(part.text)
            for message in messages
            for part in message.parts
            if isinstance(part, TextPart)
        )

    def _to_conversation(
        self, messages: Sequence[Message], images: Sequence[Image.Image]
    ) -> list[dict[str, Any]]:  # the shape that `apply_chat_template` takes
        _check_places(messages, images)
        pictures = iter(images)
        conversation: list[dict[str, Any]] = []
        for message in messages:
            parts: list[dict[str, Any]] = []
            for part in message.parts:
                match part:
                    case TextPart(text=text):
                        escaped = self._literals.sub(lambda m: self._sentinel(m.group()), text)
                        parts.append({"type": "text", "text": escaped})
                    case ImagePart():
                        parts.append({"type": "image", "image": next(pictures)})
            is_text = all(part["type"] == "text" for part in parts)
            if is_text and not self.takes_lists:
                content: Any = "".join(part["text"] for part in parts)
            else:
                content = parts
            conversation.append({"role": message.role, "content": content})
        return conversation

    def _sentinel(self, literal: str) -> str:
        """Return the stand-in of a literal; made, and taught to the copies, when first needed."""
        if literal in self._sentinels:
            return self._sentinels[literal]
        if self._escaping is None:
            self._escaping = copy.deepcopy(self._processor)
        sentinel = f"\ue000{self._nonce}{len(self._sentinels)}\ue001"
        tokenizer = _tokenizer_of(self._escaping)
        tokenizer.add_tokens([AddedToken(sentinel, normalized=False, special=True)])
        sentinel_id: int = tokenizer.convert_tokens_to_ids(sentinel)
        special_ids = set(_tokenizer_of(self._processor).added_tokens_decoder)
        self._literal_ids[sentinel_id] = _encode_plainly(
            self._plain_tokenizer(), literal, special_ids
        )
        self._sentinels[literal] = sentinel
        return sentinel

    def _with_literals(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Put the literals' ids where the sentinels are; masks of that length grow with them."""
        sentinel_ids_1L = inputs["input_ids"]
        token_ids: list[int] = []
        repeats: list[int] = []
        for token_id in sentinel_ids_1L[0].tolist():
            replacement = self._literal_ids.get(token_id, [token_id])
            token_ids.extend(replacement)
            repeats.append(len(replacement))
        repeats_L = torch.tensor(repeats)
        grown = {
            name: value.repeat_interleave(repeats_L, dim=1)
            if isinstance(value, torch.Tensor) and value.shape == sentinel_ids_1L.shape
            else value
            for name, value in inputs.items()
        }
        return {**grown, "input_ids": torch.tensor([token_ids])}

    def _template_takes_lists(self) -> bool:
        """Whether text-only content may be a list of parts (older templates want a string)."""
        probe = f"probe{self._nonce}"
        content: Any = [{"type": "text", "text": probe}]
        try:
            text = self._processor.apply_chat_template([{"role": "user", "content": content}])
        except Exception:  # noqa: BLE001 (templates raise what they like)
            return False
        return isinstance(text, str) and probe in text and f"'{probe}'" not in text


def _check_places(messages: Sequence[Message], images: Sequence[Image.Image]) -> None:
    num_places = sum(isinstance(part, ImagePart) for m in messages for part in m.parts)
    if num_places != len(images):
        raise PromptError(f"{num_places} places for {len(images)} images")


def extend_inputs(inputs: dict[str, Any], token_ids: Sequence[int]) -> dict[str, Any]:
    """Return `inputs` with plain text tokens behind the prompt (an answer to be continued)."""
    if not token_ids:
        return inputs
    prompt_ids_1L = inputs["input_ids"]
    more = {"input_ids": torch.tensor([list(token_ids)])}
    more["attention_mask"] = torch.ones_like(more["input_ids"])
    return {
        name: torch.cat([value, _row_like(value, more.get(name), len(token_ids))], dim=1)
        if isinstance(value, torch.Tensor) and value.shape == prompt_ids_1L.shape
        else value
        for name, value in inputs.items()
    }


def _row_like(value: torch.Tensor, row: torch.Tensor | None, length: int) -> torch.Tensor:
    """Return `row` in the dtype of `value`; zeros (token types: text) where there is none."""
    return value.new_zeros(1, length) if row is None else row.to(value.dtype)


def _encode_plainly(plain: Tokenizer, literal: str, special_ids: set[int]) -> list[int]:
    """Return the ids of `literal` as ordinary text."""
    for anchor in _ANCHORS:
        before = plain.encode(anchor, add_special_tokens=False).ids
        both = plain.encode(anchor + literal, add_special_tokens=False).ids
        if both[: len(before)] == before and special_ids.isdisjoint(both[len(before) :]):
            return both[len(before) :]
    # Added tokens that are not marked special match even so: not in two halves, though.
    halves = (literal[:1], literal[1:])
    return [i for half in halves for i in plain.encode(half, add_special_tokens=False).ids]


def _tokenizer_of(processor: ProcessorMixin) -> Any:  # its stubs and its attributes differ
    return getattr(processor, "tokenizer")  # noqa: B009 (set by every multimodal processor)


def _placeholder_texts(processor: ProcessorMixin) -> list[str]:
    """Return what the processor itself looks for in text, special or not."""
    names = ("image_token", "boi_token", "eoi_token", "video_token", "audio_token")
    holders = (processor, _tokenizer_of(processor))
    found = [getattr(holder, name, None) for holder in holders for name in names]
    return [str(token) for token in found if token is not None]
