"""The audit with its anchors, and votes on answers."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "audit",
        sa.Column("chain", sa.String(64), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False, autoincrement=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("tenant_id", sa.String(128), nullable=False),
        sa.Column("key_id", sa.String(64)),
        sa.Column("method", sa.String(16), nullable=False),
        sa.Column("route", sa.String(64), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("revision", sa.String(160), nullable=False),
        sa.Column("images", sa.JSON(), nullable=False),
        sa.Column("prompt_hash", sa.String(64), nullable=False),
        sa.Column("parameters_hash", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("finish_reason", sa.String(160), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.BigInteger(), nullable=False),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("chain", "number", name="pk_audit"),
    )
    op.create_index("ix_audit_at", "audit", ["at_ms", "chain", "number"])
    op.create_index("ix_audit_request", "audit", ["request_id"])
    op.create_index("ix_audit_tenant", "audit", ["tenant_id", "at_ms"])
    op.create_table(
        "audit_anchors",
        sa.Column("chain", sa.String(64), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("removed_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("chain", name="pk_audit_anchors"),
    )
    op.create_table(
        "feedback",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant_id", sa.String(128), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("revision", sa.String(160), nullable=False),
        sa.Column("rating", sa.String(8), nullable=False),
        sa.Column("consent", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("corrected_answer", sa.Text()),
        sa.Column("conversation", sa.JSON()),
        sa.Column("images", sa.JSON()),
        sa.Column("subject", sa.String(64)),
        sa.Column("licence", sa.String(64)),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("changed_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_feedback"),
    )
    votes = ["tenant_id", "key_id", "request_id"]
    op.create_index("ux_feedback_request", "feedback", votes, unique=True)
    op.create_index("ix_feedback_created", "feedback", ["created_ms", "id"])


def downgrade() -> None:
    """Drop them, with all that they hold."""
    for table in ("feedback", "audit_anchors", "audit"):
        op.drop_table(table)
