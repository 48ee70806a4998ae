"""What is said and checked before anything is sent.

What does *not* live here: options (`command.py`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from datagen.errors import DataError
from datagen.instruct.generating import Generation
from services.endpoint_client.budget import Prices, about_tokens
from services.endpoint_client.identifiers import suspicions

_REPLY_TOKENS = 400  # of three rounds, about


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What asking takes, about.

    Args:
        domains: how many figures are of each; one of several counts in each.
        example: the first figure's messages; empty: nothing is to be asked.
    """

    num_figures: int
    prompt_tokens: float
    cost: float
    domains: Mapping[str, int]
    example: str

    @property
    def words(self) -> str:
        """For the user."""
        return (
            f"about {self.prompt_tokens:,.0f} tokens of prompts and "
            f"{self.num_figures * _REPLY_TOKENS:,} of answers, cost about {self.cost:.2f}"
        )


def foresee(generation: Generation, prices: Prices) -> Foreseen:
    """Return what is still to be asked, and what it takes."""
    pending = generation.pending()
    tokens, example = 0.0, ""
    domains: Counter[str] = Counter()
    for number in pending:
        sample = generation.selection.at(number)
        domains.update(sample.figure.domains or ("no domain",))
        messages, _ = generation.asker.request(sample, 0)
        tokens += about_tokens(messages)
        example = example or "\n\n".join(f"[{m['role']}]\n{m['content']}" for m in messages)
    cost = prices.cost(tokens, len(pending) * _REPLY_TOKENS)
    return Foreseen(len(pending), tokens, cost, domains, example)


def check_texts(generation: Generation, url: str) -> None:
    """Refuse figures whose texts seem to name a patient; raises DataError."""
    if found := suspicions(_texts(generation)):
        kinds = "; ".join(
            f"{what} in {len(set(ids))}, such as {ids[0]}" for what, ids in found.items()
        )
        raise DataError(
            f"texts of these figures seem to name a patient: {kinds}; look at them before they go "
            f"to {url}, then add --allow-suspected"
        )


def _texts(generation: Generation) -> Iterator[tuple[str, str]]:
    for number in generation.pending():
        figure = generation.selection.at(number).figure
        mentions = figure.mentions if generation.asker.wording.has_mentions else ()
        for text in (figure.label, figure.caption, *mentions):
            yield figure.pair_id, text
