"""${message}"""

import sqlalchemy as sa
from alembic import op

revision = "${up_revision}"
down_revision = "${down_revision}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """${upgrades if upgrades else "What changes."}"""


def downgrade() -> None:
    """${downgrades if downgrades else "What changes back."}"""
