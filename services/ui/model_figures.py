"""What the gateway's page of metrics says of each model. Pure.

What does *not* live here: what follows from two of them (`rates.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from prometheus_client.parser import text_string_to_metric_families

_COUNTERS = {
    "galen_gateway_prompt_tokens_total": "prompt_tokens",
    "galen_gateway_completion_tokens_total": "completion_tokens",
    "galen_gateway_finished_choices_total": "finished",
}
_TTFT = "galen_gateway_time_to_first_token_seconds_bucket"
"""Names of services/gateway/metrics.py; a test holds them against the gateway's own page."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts of a model since the gateway's start.

    Args:
        finished: choices that ended well.
        ttft: answers whose first token came within so many seconds, by the bucket's upper bound.
    """

    prompt_tokens: float = 0.0
    completion_tokens: float = 0.0
    finished: float = 0.0
    ttft: Mapping[float, float] = field(default_factory=dict[float, float])

    def begins_after(self, earlier: "Figures") -> bool:
        """Whether these were counted from zero after `earlier`: counters never fall."""
        return (
            self.prompt_tokens < earlier.prompt_tokens
            or self.completion_tokens < earlier.completion_tokens
            or self.finished < earlier.finished
            or any(self.ttft.get(bound, 0.0) < count for bound, count in earlier.ttft.items())
        )


def figures_by_model(page: str) -> dict[str, Figures]:
    """Return the figures of a page in Prometheus's text form; raises ValueError for another."""
    found: dict[str, Figures] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            model = sample.labels.get("model")
            if model is None:
                continue
            before = found.get(model, Figures())
            if sample.name in _COUNTERS:  # one sample for each finish reason is one of a sum
                name = _COUNTERS[sample.name]
                summed = getattr(before, name) + sample.value
                found[model] = replace(before, **{name: summed})
            elif sample.name == _TTFT:
                bounds = {**before.ttft, float(sample.labels["le"]): sample.value}
                found[model] = replace(before, ttft=bounds)
    return found
