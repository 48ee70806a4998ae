"""Evaluations: each question becomes a chat completion, each answer a line of LLaVA-Med's format.

What does *not* live here: what the answers are worth (`scored.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import msgspec

from evaluation.answering import Decoding, answer_record, messages_of
from evaluation.item_images import SentImage
from evaluation.jobs.asking import Answered
from evaluation.jobs.lines import Line
from evaluation.vqa_items import Item
from services.endpoint_client.client import Reply
from services.protocol.batch_lines import BatchInputError, Span, raw_lines
from services.protocol.evaluation_lines import (
    EvaluationImage,
    EvaluationItem,
    evaluation_spans,
    read_evaluation_line,
)
from services.store.models import JobRow


@dataclass(frozen=True, slots=True)
class _Asked:
    item: EvaluationItem
    image: SentImage | None


class EvaluationKind:
    """See `LineKind`."""

    def spans(self, file: BinaryIO, most_lines: int, most_bytes: int) -> list[Span]:
        """Cut between images."""
        return evaluation_spans(raw_lines(file), most_lines=most_lines, most_bytes=most_bytes)

    def lines(self, job: JobRow, content: BinaryIO, first: int) -> Iterator[Line]:
        """Give the questions; images are not counted."""
        number = first
        image: SentImage | None = None
        for raw in raw_lines(content):
            try:
                line = read_evaluation_line(raw.content, raw.number)
            except BatchInputError as error:  # it has become unreadable since the upload
                yield Line(number, "", None, problem=(error.code, error.message))
                number += 1
                continue
            if isinstance(line, EvaluationImage):
                image = SentImage(line.url, line.sha256, line.converted_by)
                continue
            shown = image if line.image is not None else None
            asked = _Asked(line, shown)
            yield Line(number, line.id, lambda asked=asked: _body(job, asked), context=asked)
            number += 1

    def row(self, job: JobRow, line: Line, answered: Answered) -> Mapping[str, Any]:
        """An answer as `galen evaluate answer` writes it; else why there is none."""
        asked = line.context
        if not answered.is_good or answered.body is None or not isinstance(asked, _Asked):
            return {"question_id": line.name or None, "error": _why(answered)}
        choice: Any = answered.body["choices"][0]
        usage: Any = answered.body.get("usage") or {}
        reply = Reply(
            text=choice["message"]["content"] or "",
            finish_reason=choice["finish_reason"] or "",
            prompt_tokens=usage.get("prompt_tokens", 0),
            completion_tokens=usage.get("completion_tokens", 0),
            seconds=answered.seconds,
            preprocess=answered.preprocess,
        )
        return answer_record(item_of(asked.item), reply, job.model, asked.image)


def item_of(line: EvaluationItem) -> Item:
    """Return the question as the rest of the evaluation knows it."""
    return Item(line.id, line.image, line.is_closed, line.kind, line.question, line.reference)


def _body(job: JobRow, asked: _Asked) -> bytes:
    messages = messages_of(asked.item.question, asked.image)
    fields = Decoding(**job.spec["decoding"]).fields
    return msgspec.json.encode({"model": job.model, "messages": messages, **fields})


def _why(answered: Answered) -> dict[str, Any]:
    if answered.error is not None:
        return {"code": answered.error[0], "message": answered.error[1]}
    error: Any = (answered.body or {}).get("error")
    return {"code": "refused", "message": "the gateway refused it", "response": error}
