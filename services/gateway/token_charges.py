"""What tenants are charged for requests: an estimate when one is queued, corrected at its end.

The queue serves the tenant that was given the fewest tokens; these are the figures it goes by. They
are divided by the tenant's weight, so that a weight of 2 gets twice the tokens. What does *not*
live here: the order itself (`protocol/scripts/claim.lua`).
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
        weights: of tenants, by their ids; 1 for all others.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._mean: dict[str, float] = {}
        self._corrections: dict[tuple[str, Lane], Counter[str]] = defaultdict(Counter)

    def estimate(self, request: GenerationRequest, card: ModelCard | None) -> int:
        """Return about how many tokens a request will cost, its answer included, by weight."""
        expected = self._mean.get(request.model, _FIRST_GUESS)
        most = request.sampling.max_tokens
        answer = expected if most is None else min(expected, most)
        tokens = prompt_tokens(request, card) + max(1, round(answer))
        return self._weighed(request.tenant_id, tokens)

    def ended(self, request: GenerationRequest, charged: int, end: Finished) -> None:
        """Note what a request really was."""
        self._corrections[request.model, request.lane][request.tenant_id] += (
            self._weighed(request.tenant_id, end.prompt_tokens + end.completion_tokens) - charged
        )
        mean = self._mean.get(request.model, float(end.completion_tokens))
        self._mean[request.model] = mean + (end.completion_tokens - mean) / _MEMORY

    def take_corrections(self) -> Mapping[tuple[str, Lane], Mapping[str, int]]:
        """Return what has to be settled, by model and lane, and forget it."""
        taken, self._corrections = self._corrections, defaultdict(Counter)
        return taken

    def _weighed(self, tenant_id: str, tokens: int) -> int:
        """Return tokens as the queue counts them; no request is free."""
        return max(1, round(tokens / self._weights.get(tenant_id, 1.0)))
