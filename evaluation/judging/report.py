"""The report of a judged run: figures by type and domain, questions with answers and scores.

What does *not* live here: the page (`evaluation/report_page.py`), scores (`summary.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.chat_items import DOMAINS, TYPES, ChatItem
from evaluation.judging.reply import scores_in
from evaluation.judging.summary import ALL, Group, from_json
from evaluation.report_page import (
    MOST_IMAGES,
    Bar,
    Filter,
    plot_of,
    published_figures,
    thumbnail,
    write_page,
)

_ORDERS = {"straight": "reference first", "swapped": "model first"}
_PUBLISHED_NAMES = {
    "conversation": "conversation",
    "detailed_description": "detailed description",
    "chest_xray": "chest x-ray",
    "mri": "MRI",
    "histology": "histology",
    "gross": "gross",
    "ct_scan": "CT",
    ALL: "overall",
}


@dataclass(frozen=True, slots=True)
class Texts:
    """What was asked and answered; a receipt has none of it.

    Args:
        items: by id; empty: the file of the questions is not at hand.
        answers: of the model, by question id.
        questions: texts by id, for questions that `items` lacks.
    """

    items: Mapping[str, ChatItem]
    answers: Mapping[str, str]
    questions: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Opinion:
    """A reply of the judge.

    Args:
        order: which answer it saw first.
        reference: score of the reference, with `model`; None: the reply has no two scores.
        words: what it says below them, or all of it where it has none.
    """

    order: str
    reference: float | None
    model: float | None
    words: str


@dataclass(frozen=True, slots=True)
class JudgedItem:
    """A question with all that is known of it.

    Args:
        question: None: not at hand; so `stored`, the reference, and `answer`.
        reference: its score, with `model`; None: unscored.
        is_addressing: its answer seems to tell the judge what to do.
    """

    id: str
    image: str
    type: str
    domains: tuple[str, ...]
    question: str | None
    stored: str | None
    answer: str | None
    reference: float | None
    model: float | None
    opinions: Sequence[Opinion]
    is_addressing: bool

    @property
    def css(self) -> str:
        """Classes for the filters; names of ours only."""
        if self.reference is None or self.model is None:
            verdict = "is-unscored"
        else:
            verdict = "is-below" if self.model < self.reference else "is-equal"
        kinds = [name for name in (self.type, *self.domains) if name in (*TYPES, *DOMAINS)]
        return " ".join([verdict, *(f"kind-{name}" for name in kinds)])


def judged_items(
    receipt: Mapping[str, Any], replies: Mapping[str, Mapping[str, object]], texts: Texts
) -> list[JudgedItem]:
    """Return the questions of a receipt, with their texts as far as these are at hand."""
    found: list[JudgedItem] = []
    for line in receipt["items"]:
        name = line["id"]
        item = texts.items.get(name)
        opinions = [
            _opinion(order, replies[f"{name}/{order}"])
            for order in _ORDERS
            if f"{name}/{order}" in replies
        ]
        found.append(
            JudgedItem(
                id=name,
                image=line["image"],
                type=line["type"],
                domains=tuple(line["domains"]),
                question=texts.questions.get(name) if item is None else item.question,
                stored=None if item is None else item.reference,
                answer=texts.answers.get(name),
                reference=line["reference"],
                model=line["model"],
                opinions=opinions,
                is_addressing=name in receipt["addressing_judge"],
            )
        )
    return found


def write_judged_report(
    file: Path,
    receipt: Mapping[str, Any],
    replies: Mapping[str, Mapping[str, object]],
    texts: Texts,
    images: Path | None,
) -> None:
    """Write the report of a judged run.

    Args:
        replies: of the judge, by the ids of their records.
        images: folder of the questions' images; None: the report shows none.
    """
    groups = from_json(receipt["metrics"])
    items = judged_items(receipt, replies, texts)
    shown = [(item, thumbnail(images, item.image)) for item in items[:MOST_IMAGES]]
    write_page(
        file,
        "judged.html.j2",
        receipt,
        plot=plot_of(_bars(groups)),
        rows=group_rows(groups),
        published=_published(groups, receipt),
        filters=_filters(items),
        items=shown,
        num_left_out=len(items) - len(shown),
    )


def group_rows(groups: Mapping[str, Mapping[str, Group]]) -> list[list[str]]:
    """Return rows of group, version, relative score with interval, both means, number."""
    return [
        [
            name,
            version,
            f"{group.relative:.1f}",
            f"{group.low:.1f} to {group.high:.1f}",
            f"{group.model:.2f}",
            f"{group.reference:.2f}",
            str(group.num),
        ]
        for version, by_name in groups.items()
        for name, group in by_name.items()
    ]


def _opinion(order: str, record: Mapping[str, object]) -> Opinion:
    said = str(record["result"])
    scores = scores_in(said)
    if scores is None:
        return Opinion(_ORDERS[order], None, None, said)
    reference, model = scores if order == "straight" else scores[::-1]
    return Opinion(_ORDERS[order], reference, model, said.strip().partition("\n")[2].strip())


def _bars(groups: Mapping[str, Mapping[str, Group]]) -> list[Bar]:
    """Return the bars of a group side by side."""
    names = dict.fromkeys(name for by_name in groups.values() for name in by_name)
    return [
        Bar(f"{name}, {version}", version, group.relative, group.low, group.high)
        for name in names
        for version, by_name in groups.items()
        for group in [by_name.get(name)]
        if group is not None
    ]


def _published(
    groups: Mapping[str, Mapping[str, Group]], receipt: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return LLaVA-Med's figures with this run's first, by the columns of their table."""
    found = published_figures()
    legacy = groups.get("legacy-v1", {})
    own = [f"{legacy[n].relative:.1f}" if n in legacy else "-" for n in _PUBLISHED_NAMES]
    sizes = [str(legacy[n].num) if n in legacy else "0" for n in _PUBLISHED_NAMES]
    columns = list(_PUBLISHED_NAMES.values())
    theirs = [str(found["chat_questions"][column]) for column in columns]
    return {
        "columns": columns,
        "own": [f"this run: {receipt.get('model', 'these answers')}", *own],
        "rows": [
            [line["model"], *(f"{line['scores'][column]:.1f}" for column in columns)]
            for line in found["chat"]
        ],
        "sizes": [["questions of this run", *sizes], ["questions of the table", *theirs]],
        "is_of_same_size": sizes == theirs,
        "source": found["chat_source"],
    }


def _filters(items: Sequence[JudgedItem]) -> list[Filter]:
    """Return a filter for each type and domain that there is."""
    return [
        Filter(f"kind-{name}", name.replace("_", " "), num)
        for name in (*TYPES, *DOMAINS)
        if (num := sum(name in (item.type, *item.domains) for item in items))
    ]
