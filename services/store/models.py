"""The tables: files, jobs and their shards, API keys and their use, the audit, votes.

A tenant stands in every row.

Times are milliseconds since 1970, and all of them come from the database's own clock (`clock.py`).
What does *not* live here: how tables come to be (`migrations/`), queries (`*_records.py`).
"""

from typing import Any, Literal, cast

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

JobKind = Literal["batch", "evaluation"]
JobStatus = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
"""OpenAI's, of a batch."""
JobOutcome = Literal["completed", "expired", "cancelled"]
ShardState = Literal["waiting", "running", "done"]

ENDED: tuple[JobStatus, ...] = ("failed", "completed", "expired", "cancelled")

_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
}


class Base(DeclarativeBase):
    """Of all tables; constraints have names, so that a migration can change them."""

    metadata = MetaData(naming_convention=_NAMES)


class FileRow(Base):
    """A file that was uploaded, or that a job wrote.

    Args:
        key: its place in the file store.
        sha256: hex, of its content.
        num_lines: of a file of JSON lines; 0 for others.
        model: that all its lines ask for; "" for others.
        expires_ms: from then on it is as if it were not there; None: nobody has said an end.
    """

    __tablename__ = "files"
    __table_args__ = (Index("ix_files_tenant", "tenant_id", "created_ms"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(128))
    filename: Mapped[str] = mapped_column(String(255))
    purpose: Mapped[str] = mapped_column(String(32))
    num_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    key: Mapped[str] = mapped_column(String(255))
    num_lines: Mapped[int]
    model: Mapped[str] = mapped_column(String(200))
    created_ms: Mapped[int] = mapped_column(BigInteger)
    expires_ms: Mapped[int | None] = mapped_column(BigInteger)


class JobRow(Base):
    """A batch, or an evaluation.

    Args:
        spec: what a kind needs to know of its lines, JSON.
        outcome: what it ends as when all its shards are done.
        problems: why it failed, in OpenAI's form.
        result: of an evaluation: its receipt.
        key_id: of the key that made it, which pays for it; None: it was made without one.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_tenant", "tenant_id", "kind", "created_ms"),
        Index("ix_jobs_status", "status"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(128))
    kind: Mapped[str] = mapped_column(String(16))
    status: Mapped[str] = mapped_column(String(16))
    outcome: Mapped[str] = mapped_column(String(16))
    endpoint: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(String(200))
    completion_window: Mapped[str] = mapped_column(String(16))
    input_file_id: Mapped[str] = mapped_column(String(64))
    output_file_id: Mapped[str | None] = mapped_column(String(64))
    error_file_id: Mapped[str | None] = mapped_column(String(64))
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    metadata_: Mapped[dict[str, str] | None] = mapped_column("metadata", JSON)
    problems: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    total: Mapped[int]
    created_ms: Mapped[int] = mapped_column(BigInteger)
    expires_ms: Mapped[int] = mapped_column(BigInteger)
    in_progress_ms: Mapped[int | None] = mapped_column(BigInteger)
    finalizing_ms: Mapped[int | None] = mapped_column(BigInteger)
    cancelling_ms: Mapped[int | None] = mapped_column(BigInteger)
    ended_ms: Mapped[int | None] = mapped_column(BigInteger)
    sent_ms: Mapped[int | None] = mapped_column(BigInteger)
    key_id: Mapped[str | None] = mapped_column(String(64))

    @property
    def state(self) -> JobStatus:
        """`status`, typed."""
        return cast("JobStatus", self.status)


class ShardRow(Base):
    """A run of lines of a job's input, which one worker does at a time.

    Args:
        first_line: counted from 0.
        start_byte: of its first line in the input.
        end_byte: behind its last line.
        attempt: counts claims: the fencing token.
        strikes: claims in a row that were lost and had brought no line.
        num_at_claim: lines that were done at the present claim.
        part_key: its results in the file store.
    """

    __tablename__ = "shards"
    __table_args__ = (Index("ix_shards_state", "state", "lease_until_ms"),)

    job_id: Mapped[str] = mapped_column(
        String(64), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(128))
    first_line: Mapped[int]
    num_lines: Mapped[int]
    start_byte: Mapped[int] = mapped_column(BigInteger)
    end_byte: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16))
    attempt: Mapped[int]
    strikes: Mapped[int]
    num_at_claim: Mapped[int]
    num_completed: Mapped[int]
    num_failed: Mapped[int]
    owner: Mapped[str | None] = mapped_column(String(128))
    lease_until_ms: Mapped[int | None] = mapped_column(BigInteger)
    sent_ms: Mapped[int | None] = mapped_column(BigInteger)
    part_key: Mapped[str | None] = mapped_column(String(255))


class KeyRow(Base):
    """An API key. Its secret is not here, only what the whole key hashes to.

    Args:
        id: its public name, with which the key begins.
        hash: hex, by `KeySecrets.hash_of`.
        pepper_id: of the pepper that it was hashed with.
        scopes: their names, with blanks between them.
        burned_in: what becomes of images that may have names in their pixels; None: as the gateway
            has it.
        changed_ms: of the last change that gateways must hear of.
        replaced_by: the key that it was rotated to.
    """

    __tablename__ = "api_keys"
    __table_args__ = (
        Index("ix_api_keys_tenant", "tenant_id", "created_ms"),
        Index("ix_api_keys_changed", "changed_ms"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(128))
    name: Mapped[str] = mapped_column(String(128))
    hash: Mapped[str] = mapped_column(String(64))
    pepper_id: Mapped[str] = mapped_column(String(16))
    scopes: Mapped[str] = mapped_column(String(255))
    requests_per_minute: Mapped[int | None]
    tokens_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    concurrent_requests: Mapped[int | None]
    tokens_per_month: Mapped[int | None] = mapped_column(BigInteger)
    burned_in: Mapped[str | None] = mapped_column(String(16))
    created_ms: Mapped[int] = mapped_column(BigInteger)
    changed_ms: Mapped[int] = mapped_column(BigInteger)
    expires_ms: Mapped[int | None] = mapped_column(BigInteger)
    revoked_ms: Mapped[int | None] = mapped_column(BigInteger)
    last_used_ms: Mapped[int | None] = mapped_column(BigInteger)
    replaced_by: Mapped[str | None] = mapped_column(String(64))


class UsageRow(Base):
    """What a key has used of a model on a day.

    Args:
        day: UTC, as 2026-11-29.
        key_id: "" for requests without a key.
        prompt_tokens: image tokens included.
        errors: of `requests`, those that ended with an error.
    """

    __tablename__ = "usage"
    __table_args__ = (Index("ix_usage_tenant", "tenant_id", "day"),)

    day: Mapped[str] = mapped_column(String(10), primary_key=True)
    key_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    model: Mapped[str] = mapped_column(String(200), primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    errors: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    image_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)


class AuditRow(Base):
    """A record of the audit; its fields are those of `audit_chain.AuditRecord`."""

    __tablename__ = "audit"
    __table_args__ = (
        Index("ix_audit_at", "at_ms", "chain", "number"),
        Index("ix_audit_request", "request_id"),
        Index("ix_audit_tenant", "tenant_id", "at_ms"),
    )

    chain: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at_ms: Mapped[int] = mapped_column(BigInteger)
    request_id: Mapped[str] = mapped_column(String(64))
    tenant_id: Mapped[str] = mapped_column(String(128))
    key_id: Mapped[str | None] = mapped_column(String(64))
    method: Mapped[str] = mapped_column(String(16))
    route: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(String(200))
    revision: Mapped[str] = mapped_column(String(160))
    images: Mapped[list[str]] = mapped_column(JSON)
    prompt_hash: Mapped[str] = mapped_column(String(64))
    parameters_hash: Mapped[str] = mapped_column(String(64))
    status: Mapped[int]
    code: Mapped[str] = mapped_column(String(64))
    finish_reason: Mapped[str] = mapped_column(String(160))
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    duration_ms: Mapped[int] = mapped_column(BigInteger)
    object: Mapped[str] = mapped_column(String(200), server_default="")
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class AuditAnchorRow(Base):
    """Where a chain of the audit goes on behind what retention has removed.

    It belongs to a gateway process, or to the commands of keys, and to no tenant.
    """

    __tablename__ = "audit_anchors"

    chain: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[str] = mapped_column(String(64))
    removed_ms: Mapped[int] = mapped_column(BigInteger)


class FeedbackRow(Base):
    """A vote on an answer; all but the rating is there with consent only.

    Args:
        key_id: whose vote it is; "": it came without a key.
        revision: of the model that answered, as the audit has it.
        conversation: turns, in OpenAI's roles.
        images: `{"file_id", "sha256", "preprocess"}` each, the last as a request has it; the file
            may be nobody's any more.
        subject: pseudonym of the patient or study.
    """

    __tablename__ = "feedback"
    __table_args__ = (
        Index("ux_feedback_request", "tenant_id", "key_id", "request_id", unique=True),
        Index("ix_feedback_created", "created_ms", "id"),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(String(128))
    key_id: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(String(200))
    revision: Mapped[str] = mapped_column(String(160))
    rating: Mapped[str] = mapped_column(String(8))
    consent: Mapped[bool]
    reason: Mapped[str | None] = mapped_column(Text)
    corrected_answer: Mapped[str | None] = mapped_column(Text)
    conversation: Mapped[list[dict[str, str]] | None] = mapped_column(JSON(none_as_null=True))
    images: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON(none_as_null=True))
    subject: Mapped[str | None] = mapped_column(String(64))
    licence: Mapped[str | None] = mapped_column(String(64))
    created_ms: Mapped[int] = mapped_column(BigInteger)
    changed_ms: Mapped[int] = mapped_column(BigInteger)
