"""Adds to starts how long it took from READY to the first request."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("starts") as starts:
        starts.add_column(sa.Column("estimated_handover_seconds", sa.Double()))
        starts.add_column(sa.Column("measured_handover_seconds", sa.Double()))


def downgrade() -> None:
    with op.batch_alter_table("starts") as starts:
        starts.drop_column("measured_handover_seconds")
        starts.drop_column("estimated_handover_seconds")
