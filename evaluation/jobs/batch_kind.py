"""Batches: lines and rows in OpenAI's form. Pure."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from evaluation.jobs.asking import Answered
from evaluation.jobs.lines import Line
from services.protocol.batch_lines import BatchInputError, Span, raw_lines, read_line, spans
from services.store.models import JobRow


class BatchKind:
    """See `LineKind`."""

    def spans(self, file: BinaryIO, most_lines: int, most_bytes: int) -> list[Span]:
        """Cut anywhere."""
        return spans(raw_lines(file), most_lines=most_lines, most_bytes=most_bytes)

    def lines(
        self,
        job: JobRow,  # noqa: ARG002 - evaluations need it
        content: BinaryIO,
        first: int,
    ) -> Iterator[Line]:
        """A line that has become unreadable since the upload is a row of the error file."""
        for position, raw in enumerate(raw_lines(content, start_byte=first)):
            number = first + position
            try:
                line = read_line(raw.content, number + 1)
            except BatchInputError as error:
                yield Line(number, "", None, problem=(error.code, error.message))
            else:
                body = bytes(line.body)
                yield Line(number, line.custom_id, lambda body=body: body)

    def row(self, job: JobRow, line: Line, answered: Answered) -> Mapping[str, Any]:
        """OpenAI's form of a result."""
        identity = hashlib.sha256(f"{job.id}/{line.number}".encode()).hexdigest()
        response = None
        if answered.body is not None:
            response = {
                "status_code": answered.status,
                "request_id": answered.request_id,
                "body": answered.body,
            }
        error = None
        if answered.error is not None:
            error = {"code": answered.error[0], "message": answered.error[1]}
        return {
            "id": f"batch_req_{identity[:24]}",
            "custom_id": line.name or None,
            "response": response,
            "error": error,
        }
