"""Creates the tables for models, nodes, replicas, decisions, starts and leadership."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "models",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("layout_id", sa.Text(), nullable=False),
        sa.Column("content_id", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("architecture", sa.Text(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("engine", sa.Text(), nullable=False),
        sa.Column("engine_options", sa.Text(), nullable=False, comment="JSON"),
        sa.Column("dtype", sa.Text(), nullable=False),
        sa.Column("min_replicas", sa.Integer(), nullable=False),
        sa.Column("max_replicas", sa.Integer(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("keep_alive_seconds", sa.Double(), comment="NULL = as long as its load takes"),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("queue_limit", sa.Integer(), nullable=False),
        sa.Column("context_tokens", sa.Integer(), nullable=False),
        sa.Column("deployed_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_models")),
    )
    op.create_table(
        "nodes",
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("incarnation", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("is_up", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("device_kind", sa.Text(), nullable=False),
        sa.Column("dram_bytes", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_nodes")),
    )
    op.create_table(
        "replicas",
        sa.Column("replica_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("devices", sa.Integer(), nullable=False),
        sa.Column("decision_id", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.Double(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("replica_id", name=op.f("pk_replicas")),
    )
    op.create_table(
        "decisions",
        sa.Column("decision_id", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("recording_offset", sa.BigInteger(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("made_at", sa.Double(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False, comment="JSON"),
        sa.Column("reasons", sa.Text(), nullable=False, comment="JSON, a list of lines"),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("finished_at", sa.Double()),
        sa.PrimaryKeyConstraint("decision_id", name=op.f("pk_decisions")),
    )
    op.create_index(op.f("ix_decisions_made_at"), "decisions", ["made_at"])
    op.create_table(
        "starts",
        sa.Column("replica_id", sa.Text(), nullable=False),
        sa.Column("decision_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("bytes_read", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("ready_seconds", sa.Double(), nullable=False),
        sa.Column("first_token_seconds", sa.Double()),
        sa.Column("estimated_queue_seconds", sa.Double()),
        sa.Column("estimated_transfer_seconds", sa.Double()),
        sa.Column("estimated_worker_seconds", sa.Double()),
        sa.Column("estimated_bind_seconds", sa.Double()),
        sa.Column("estimated_prefill_seconds", sa.Double()),
        sa.Column("measured_queue_seconds", sa.Double()),
        sa.Column("measured_transfer_seconds", sa.Double()),
        sa.Column("measured_worker_seconds", sa.Double()),
        sa.Column("measured_bind_seconds", sa.Double()),
        sa.Column("measured_prefill_seconds", sa.Double()),
        sa.Column("checksum", sa.Text(), nullable=False),
        sa.Column("bottleneck", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("replica_id", name=op.f("pk_starts")),
    )
    op.create_index(op.f("ix_starts_started_at_replica_id"), "starts", ["started_at", "replica_id"])
    leadership = op.create_table(
        "leadership",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False, comment="by the database's clock"),
        sa.CheckConstraint("id = 1", name=op.f("ck_leadership_single_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leadership")),
    )
    op.bulk_insert(leadership, [{"id": 1, "epoch": 0, "holder": "", "expires_at": 0.0}])


def downgrade() -> None:
    for table in ("leadership", "starts", "decisions", "replicas", "nodes", "models"):
        op.drop_table(table)
