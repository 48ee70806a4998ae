"""One figure to a model: what is sent, and the record of what comes back.

Structured output is tried where the endpoint may have it; the first refusal of it that plain text
survives turns it off. What does *not* live here: many at once (`generating.py`, `batching.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from datagen.figures import DOMAINS
from datagen.instruct import prompts
from datagen.instruct.prompts import RESPONSE_FORMAT, Messages, Wording
from datagen.instruct.replies import UnusableError, conversation_in
from datagen.instruct.sampling import Sample
from services.endpoint_client.budget import Budget
from services.endpoint_client.client import EndpointClient, EndpointError, Reply

Structured = Literal["auto", "on", "off"]
OUTPUT_VERSION = 1
_WRONG_REQUEST = frozenset({400, 422})
CONTENT_FILTERS = frozenset({"content_filter", "content_policy_violation"})


@dataclass(frozen=True, slots=True)
class Decoding:
    """How conversations are drawn; sent with every figure."""

    temperature: float
    seed: int
    max_tokens: int


@dataclass(slots=True)
class Asker:
    """A model that is asked for conversations.

    Args:
        structured: `auto` becomes `off` where the endpoint does not take it.
    """

    model: str
    wording: Wording
    decoding: Decoding
    structured: Structured
    budget: Budget

    def request(self, sample: Sample, tries: int) -> tuple[Messages, dict[str, Any]]:
        """Return the conversation that is sent, and further fields of the request.

        Args:
            tries: before; each has a seed of its own, or its answer would be the same.
        """
        is_structured = self.structured != "off"
        fields = {
            "temperature": self.decoding.temperature,
            "seed": self.decoding.seed + tries,
            "max_tokens": self.decoding.max_tokens,
            **({"response_format": RESPONSE_FORMAT} if is_structured else {}),
        }
        return self.wording.messages(sample.figure, is_structured=is_structured), fields

    async def ask(self, client: EndpointClient, sample: Sample, tries: int) -> Mapping[str, object]:
        """Return the record of a conversation.

        Raises:
            UnusableError: the reply holds none.
            EndpointError: there is no reply.
            TooExpensiveError: it might cost too much.
        """
        messages, fields = self.request(sample, tries)
        try:
            reply, cost = await self._complete(client, messages, fields)
        except EndpointError as error:
            is_refused = error.status in _WRONG_REQUEST and error.code not in CONTENT_FILTERS
            may_do_without = "response_format" in fields and self.structured != "on"
            if error.is_final or not is_refused or not may_do_without:
                raise
            messages = self.wording.messages(sample.figure, is_structured=False)
            del fields["response_format"]
            reply, cost = await self._complete(client, messages, fields)
            self.structured = "off"
        return self.record(sample, reply, fields["seed"], cost)

    def record(self, sample: Sample, reply: Reply, seed: int, cost: float) -> dict[str, object]:
        """Return the line that is kept; raises UnusableError."""
        try:
            found = conversation_in(reply)
        except UnusableError as error:
            raise UnusableError(str(error), cost) from None
        figure = sample.figure
        return {
            **sample.record,
            "image": figure.image,
            "domain": {name: name in figure.domains for name in DOMAINS},
            **({"licence": figure.licence} if figure.licence else {}),
            "result": found.text,
            **({} if found.turns is None else {"turns": _listed(found.turns)}),
            "generation": {
                "version": OUTPUT_VERSION,
                "model": self.model,
                "prompt": prompts.VERSION,
                "prompt_sha256": self.wording.sha256,
                "temperature": self.decoding.temperature,
                "seed": seed,
                "use_mentions": self.wording.has_mentions,
                "finish_reason": reply.finish_reason,
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
                "cost": cost,
                "structured": found.turns is not None,
            },
        }

    async def _complete(
        self, client: EndpointClient, messages: Messages, fields: Mapping[str, Any]
    ) -> tuple[Reply, float]:
        with self.budget.staked(messages, self.decoding.max_tokens) as stake:
            reply = await client.complete(messages, fields)
            return reply, stake.answered(reply)


def _listed(turns: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    return [{"question": question, "answer": answer} for question, answer in turns]
