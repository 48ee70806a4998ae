"""What a request of the audit was about."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; a gateway of the version before, which still runs, leaves it empty."""
    op.add_column("audit", sa.Column("object", sa.String(200), nullable=False, server_default=""))


def downgrade() -> None:
    """Drop it; records that name an object do not verify any more."""
    op.drop_column("audit", "object")
