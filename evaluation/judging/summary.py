"""What scores of a judge come to, by type and domain, in both versions.

`legacy-v1` is LLaVA-Med's: 100 times the mean of ratios (model's score over reference's), a
question of two domains counted in the first of `DOMAINS` only. `standard-v1` takes the ratio of
means, which one low score of a reference does not blow up, and counts a question in each of its
domains. What does *not* live here: asking (`asking.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.chat_items import DOMAINS, TYPES, ChatItem

_RESAMPLES = 2_000
_NAMES = {
    "legacy-v1": ("gpt4_score", "pred_score", "pred_relative_score"),
    "standard-v1": ("reference_score", "model_score", "relative_score"),
}
ALL = "all"


@dataclass(frozen=True, slots=True)
class Scored:
    """One question with its scores, from 1 to 10; of two orders the means.

    Args:
        reference: the score of the stored answer.
        model: that of the answer which is judged.
    """

    item: ChatItem
    reference: float
    model: float


@dataclass(frozen=True, slots=True)
class Group:
    """A row of the table; scores in percent of the reference's.

    Args:
        low: of the 95 % percentile interval of `relative`, with `high`; images resampled.
    """

    reference: float
    model: float
    relative: float
    low: float
    high: float
    num: int


def summarise(scored: Sequence[Scored]) -> dict[str, dict[str, Group]]:
    """Return groups by version and by name; those without a question are left out."""
    return {
        "legacy-v1": _groups(scored, is_legacy=True),
        "standard-v1": _groups(scored, is_legacy=False),
    }


def _groups(scored: Sequence[Scored], *, is_legacy: bool) -> dict[str, Group]:
    members: dict[str, list[Scored]] = {name: [] for name in (*TYPES, ALL, *DOMAINS)}
    for each in scored:
        domains = each.item.domains[:1] if is_legacy else each.item.domains
        for name in (each.item.type, ALL, *domains):
            members[name].append(each)
    return {name: _group(of, is_legacy=is_legacy) for name, of in members.items() if of}


def _group(scored: Sequence[Scored], *, is_legacy: bool) -> Group:
    reference = np.array([each.reference for each in scored])
    model = np.array([each.model for each in scored])
    numbers = {name: number for number, name in enumerate({e.item.image: None for e in scored})}
    image = np.array([numbers[each.item.image] for each in scored])
    # sums by image, of what is divided in the end
    above = np.bincount(image, model / reference if is_legacy else model)
    below = np.bincount(image, np.ones(len(scored)) if is_legacy else reference)
    num = len(numbers)
    drawn = np.random.default_rng(0).multinomial(num, np.full(num, 1 / num), _RESAMPLES)
    low, high = np.percentile((drawn @ above) / (drawn @ below), (2.5, 97.5))
    return Group(
        reference=float(reference.mean()),
        model=float(model.mean()),
        relative=100 * float(above.sum() / below.sum()),
        low=100 * float(low),
        high=100 * float(high),
        num=len(scored),
    )


def as_json(groups: Mapping[str, Mapping[str, Group]]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the summary for a receipt; of `legacy-v1` with LLaVA-Med's names."""
    return {
        version: {name: _as_json(group, *_NAMES[version]) for name, group in by_name.items()}
        for version, by_name in groups.items()
    }


def from_json(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Group]]:
    """Return what a receipt's summary says."""
    return {
        version: {name: _from_json(value, *_NAMES[version]) for name, value in by_name.items()}
        for version, by_name in found.items()
    }


def _as_json(group: Group, reference: str, model: str, relative: str) -> dict[str, float]:
    return {
        reference: group.reference,
        model: group.model,
        relative: group.relative,
        "low": group.low,
        "high": group.high,
        "data_size": group.num,
    }


def _from_json(value: Mapping[str, Any], reference: str, model: str, relative: str) -> Group:
    return Group(
        reference=value[reference],
        model=value[model],
        relative=value[relative],
        low=value["low"],
        high=value["high"],
        num=value["data_size"],
    )
