"""What tenants are charged for requests: an estimate when one is queued, corrected at its end.

The queue serves the tenant that was given the fewest tokens; these are the figures it goes by. What
does *not* live here: the order itself (`protocol/scripts/claim.lua`).
"""

from collections import Counter, defaultdict
from collections.abc import Mapping

from services.gateway.prompt_costs import prompt_tokens
from services.protocol.messages import Finished, GenerationRequest, Lane, ModelCard

_FIRST_GUESS = 256
"""Tokens of an answer of a model that has not ended one yet."""
_MEMORY = 64
"""Answers that the running mean looks back on."""


class TokenCharges:
    """The charges of one gateway.

    Args:
        weights: of tenants, 1 where nothing is said. One of weight 2 is charged half of what it
            costs, and so is given twice as much where tenants wait for each other.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._mean: dict[str, float] = {}
        self._corrections: dict[tuple[str, Lane], Counter[str]] = defaultdict(Counter)

    def estimate(self, request: GenerationRequest, card: ModelCard | None) -> int:
        """Return what a request is charged: about its tokens, those of its answer included."""
        expected = self._mean.get(request.model, _FIRST_GUESS)
        most = request.sampling.max_tokens
        answer = expected if most is None else min(expected, most)
        return self._charge(request, prompt_tokens(request, card) + max(1, round(answer)))

    def ended(self, request: GenerationRequest, charged: int, end: Finished) -> None:
        """Note what a request really was."""
        self._corrections[request.model, request.lane][request.tenant_id] += (
            self._charge(request, end.prompt_tokens + end.completion_tokens) - charged
        )
        mean = self._mean.get(request.model, float(end.completion_tokens))
        self._mean[request.model] = mean + (end.completion_tokens - mean) / _MEMORY

    def _charge(self, request: GenerationRequest, tokens: int) -> int:
        return max(1, round(tokens / self._weights.get(request.tenant_id, 1.0)))

    def take_corrections(self) -> Mapping[tuple[str, Lane], Mapping[str, int]]:
        """Return what has to be settled, by model and lane, and forget it."""
        taken, self._corrections = self._corrections, defaultdict(Counter)
        return taken
