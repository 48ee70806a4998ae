"""Bodies of the routes of files, batches and evaluations, in OpenAI's form, as structs. Pure."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from services.gateway.openai_schemas import MAX_TOKENS, converted
from services.protocol.errors import ErrorCode, RequestError
from services.protocol.keys import MOST_MODEL_NAME
from services.store.job_records import Counts
from services.store.models import FileRow, JobRow

_Id = Annotated[str, Meta(min_length=1, max_length=64)]
_MAX_METADATA = 16
_MAX_METADATA_KEY = 64
_MAX_METADATA_VALUE = 512
_MAX_CANDIDATES = 100_000


class FileObject(msgspec.Struct, frozen=True):
    """A file, as OpenAI describes one."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    object: Literal["file"] = "file"
    status: Literal["processed"] = "processed"
    expires_at: int | None = None


class FileDeleted(msgspec.Struct, frozen=True):
    """The answer to a deletion."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class FileList(msgspec.Struct, frozen=True):
    """A page of files."""

    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class CreateBatchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/batches."""

    input_file_id: _Id
    endpoint: Literal["/v1/chat/completions"]
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None


class RequestCounts(msgspec.Struct, frozen=True):
    """Lines of a batch."""

    total: int
    completed: int
    failed: int


class BatchProblem(msgspec.Struct, frozen=True):
    """Why a batch failed."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class BatchProblems(msgspec.Struct, frozen=True):
    """OpenAI's list of them."""

    data: list[BatchProblem]
    object: Literal["list"] = "list"


class Batch(msgspec.Struct, frozen=True):
    """A batch, as OpenAI describes one; times are seconds since 1970."""

    id: str
    endpoint: str
    model: str
    input_file_id: str
    completion_window: str
    status: str
    created_at: int
    expires_at: int
    request_counts: RequestCounts
    errors: BatchProblems | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    metadata: dict[str, str] | None = None
    object: Literal["batch"] = "batch"


class BatchList(msgspec.Struct, frozen=True):
    """A page of batches."""

    data: list[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


class EvaluationDecoding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How answers are drawn."""

    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] = 0.0
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] = 64
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0


class CreateEvaluationRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of POST /v1/evaluations.

    Args:
        input_file_id: of a file with the purpose `evaluation`.
        benchmark: its name, with the split.
        candidates: of open answers, for the candidate accuracy of `legacy-v1`.
    """

    input_file_id: _Id
    model: Annotated[str, Meta(min_length=1, max_length=MOST_MODEL_NAME)]
    benchmark: Annotated[str, Meta(min_length=1, max_length=200)]
    decoding: EvaluationDecoding = EvaluationDecoding()
    candidates: Annotated[list[str], Meta(max_length=_MAX_CANDIDATES)] | None = None
    metadata: dict[str, str] | None = None


class Evaluation(msgspec.Struct, frozen=True):
    """An evaluation; its fields are those of a batch, as far as they mean the same.

    Args:
        receipt_status: `complete`, or `incomplete` where questions have no answer; `partial` while
            it goes on, as soon as some are scored.
        metrics: estimate and interval by the metric's name.
        num_scored: questions that they are about.
        problem: why there are none.
    """

    id: str
    benchmark: str
    model: str
    decoding: dict[str, Any]
    input_file_id: str
    status: str
    created_at: int
    expires_at: int
    request_counts: RequestCounts
    errors: BatchProblems | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    receipt_file_id: str | None = None
    receipt_status: str | None = None
    metrics: dict[str, dict[str, float | int]] | None = None
    num_scored: int | None = None
    problem: str | None = None
    ended_at: int | None = None
    metadata: dict[str, str] | None = None
    object: Literal["evaluation"] = "evaluation"


class EvaluationList(msgspec.Struct, frozen=True):
    """A page of evaluations."""

    data: list[Evaluation]
    first_id: str | None
    last_id: str | None
    has_more: bool
    object: Literal["list"] = "list"


def file_of(row: FileRow) -> FileObject:
    """Describe a file."""
    return FileObject(
        id=row.id,
        bytes=row.num_bytes,
        created_at=row.created_ms // 1000,
        filename=row.filename,
        purpose=row.purpose,
        expires_at=_seconds(row.expires_ms),
    )


def batch_of(row: JobRow, counts: Counts) -> Batch:
    """Describe a batch."""

    def ended_as(status: str) -> int | None:
        return _seconds(row.ended_ms) if row.status == status else None

    return Batch(
        id=row.id,
        endpoint=row.endpoint,
        model=row.model,
        input_file_id=row.input_file_id,
        completion_window=row.completion_window,
        status=row.status,
        created_at=row.created_ms // 1000,
        expires_at=row.expires_ms // 1000,
        request_counts=RequestCounts(row.total, counts.completed, counts.failed),
        errors=_problems(row),
        output_file_id=row.output_file_id,
        error_file_id=row.error_file_id,
        in_progress_at=_seconds(row.in_progress_ms),
        finalizing_at=_seconds(row.finalizing_ms),
        completed_at=ended_as("completed"),
        failed_at=ended_as("failed"),
        expired_at=ended_as("expired"),
        cancelling_at=_seconds(row.cancelling_ms),
        cancelled_at=ended_as("cancelled"),
        metadata=row.metadata_,
    )


def evaluation_of(row: JobRow, counts: Counts) -> Evaluation:
    """Describe an evaluation."""
    result = row.result or {}
    return Evaluation(
        id=row.id,
        benchmark=row.spec["benchmark"],
        model=row.model,
        decoding=row.spec["decoding"],
        input_file_id=row.input_file_id,
        status=row.status,
        created_at=row.created_ms // 1000,
        expires_at=row.expires_ms // 1000,
        request_counts=RequestCounts(row.total, counts.completed, counts.failed),
        errors=_problems(row),
        output_file_id=row.output_file_id,
        error_file_id=row.error_file_id,
        receipt_file_id=result.get("receipt_file_id"),
        receipt_status=result.get("status"),
        metrics=result.get("metrics"),
        num_scored=result.get("num_scored"),
        problem=result.get("problem"),
        ended_at=_seconds(row.ended_ms),
        metadata=row.metadata_,
    )


def file_page(rows: Sequence[FileRow], limit: int) -> FileList:
    """Describe a page; one row more than `limit` says that there are more."""
    shown = [file_of(row) for row in rows[:limit]]
    return FileList(shown, *_ends([f.id for f in shown]), len(rows) > limit)


def batch_page(rows: Sequence[JobRow], counts: dict[str, Counts], limit: int) -> BatchList:
    """Describe a page, as `file_page` does."""
    shown = [batch_of(row, counts[row.id]) for row in rows[:limit]]
    return BatchList(shown, *_ends([b.id for b in shown]), len(rows) > limit)


def evaluation_page(
    rows: Sequence[JobRow], counts: dict[str, Counts], limit: int
) -> EvaluationList:
    """Describe a page, as `file_page` does."""
    shown = [evaluation_of(row, counts[row.id]) for row in rows[:limit]]
    return EvaluationList(shown, *_ends([e.id for e in shown]), len(rows) > limit)


def read_create_batch(body: Any) -> CreateBatchRequest:  # noqa: ANN401 - any JSON, until here
    """Read the body of POST /v1/batches; raises RequestError."""
    request = converted(body, CreateBatchRequest)
    _check_metadata(request.metadata)
    return request


def read_create_evaluation(body: Any) -> CreateEvaluationRequest:  # noqa: ANN401 - as above
    """Read the body of POST /v1/evaluations; raises RequestError."""
    request = converted(body, CreateEvaluationRequest)
    _check_metadata(request.metadata)
    return request


def _problems(row: JobRow) -> BatchProblems | None:
    problems = [msgspec.convert(each, BatchProblem) for each in row.problems or ()]
    return BatchProblems(problems) if problems else None


def _check_metadata(metadata: dict[str, str] | None) -> None:
    """Raise RequestError beyond OpenAI's limits."""
    pairs = metadata or {}
    is_fine = len(pairs) <= _MAX_METADATA and all(
        len(key) <= _MAX_METADATA_KEY and len(value) <= _MAX_METADATA_VALUE
        for key, value in pairs.items()
    )
    if not is_fine:
        raise RequestError(
            ErrorCode.INVALID_VALUE,
            f"metadata may have {_MAX_METADATA} pairs, keys of {_MAX_METADATA_KEY} and values of "
            f"{_MAX_METADATA_VALUE} characters",
            param="metadata",
        )


def _seconds(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else milliseconds // 1000


def _ends(ids: Sequence[str]) -> tuple[str | None, str | None]:
    return (ids[0], ids[-1]) if ids else (None, None)
