"""When a file ends."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; of files from before, nobody has said an end."""
    op.add_column("files", sa.Column("expires_ms", sa.BigInteger()))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("files", "expires_ms")
