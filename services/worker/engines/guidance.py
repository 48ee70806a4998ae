"""Answers that obey a JSON Schema: which tokens may come next, by llguidance.

The grammar is the one that vLLM's `guidance` back end makes, so greedy answers agree with that
engine's. A guide replays the tokens of an earlier attempt, so a guided answer continues exactly.
What does *not* live here: which schemas are refused (`schema_check.py`), and choosing among what is
allowed (`sampling.py`).

Shapes: V entries of the vocabulary.
"""

import functools
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import llguidance.hf
import numpy as np
import torch
from llguidance import LLMatcher
from transformers import PreTrainedTokenizerBase

from services.worker.engines.schema_check import (
    grammar_of,
    parser_limits,
    problem_of,
    refusal,
    text_or_json_grammar_of,
)

_KNOWN_SCHEMAS = 64


class GuidanceError(Exception):
    """A guide is broken: nothing can be said about the next token."""


class GuideMaker:
    """Compiles schemas for one tokenizer, in a thread of its own: the batch goes on meanwhile.

    Args:
        vocab_size: entries of the model's logits; at least as many as the tokenizer has tokens.
        eos_ids: tokens that end an answer; allowed where the grammar is complete.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, vocab_size: int, eos_ids: frozenset[int]
    ) -> None:
        self._tokenizer = llguidance.hf.from_tokenizer(
            tokenizer,  # type: ignore[arg-type]  # any fast tokenizer is one
            n_vocab=max(vocab_size, len(tokenizer)),
            eos_token=sorted(eos_ids) or None,
        )
        self._compiled = functools.lru_cache(maxsize=_KNOWN_SCHEMAS)(self._compile)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="grammars")

    def order(self, schema: str, *, may_be_text: bool = False) -> "Future[Guide]":
        """Compile a schema in the thread; the future raises what `make` raises."""
        return self._thread.submit(self.make, schema, may_be_text=may_be_text)

    def make(self, schema: str, *, may_be_text: bool = False) -> "Guide":
        """Return a guide at the beginning of an answer; fast for a schema that was here lately.

        Args:
            may_be_text: the answer may be free text instead.

        Raises:
            RequestError: the schema is none, or too large, or says what llguidance cannot do.
        """
        compiled = self._compiled(schema, may_be_text)
        if isinstance(compiled, str):
            raise refusal(compiled)
        return Guide(compiled.deep_copy())

    def close(self) -> None:
        """Compile nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _compile(self, schema: str, may_be_text: bool) -> LLMatcher | str:  # noqa: FBT001 - a key of the cache
        """Return a matcher, or why there is none, so that both are remembered."""
        if problem := problem_of(schema):
            return problem
        grammar = text_or_json_grammar_of(schema) if may_be_text else grammar_of(schema)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=parser_limits())
        return "it is too large for this tokenizer" if matcher.is_error() else matcher


class Guide:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_broken(self) -> bool:
        """Whether the answer left the grammar, or the grammar grew beyond llguidance's limits."""
        return self._matcher.is_error()

    def allowed(self, vocab_size: int) -> torch.Tensor:
        """Return which tokens may come next, bool [V], on the CPU; raises GuidanceError."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self.is_broken:  # the bits would allow the end
            raise GuidanceError
        flags_V = np.unpackbits(bits, bitorder="little")[:vocab_size].astype(bool)
        return torch.from_numpy(flags_V)

    def consume(self, token_ids: Sequence[int]) -> None:
        """Go on by tokens that were chosen, the end-of-sequence token not among them."""
        self._matcher.consume_tokens(list(token_ids))
