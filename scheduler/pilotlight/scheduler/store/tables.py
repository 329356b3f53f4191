"""The tables of the SQL state; `migrations/` makes them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

models = Table(
    "models",
    metadata,
    Column("name", Text, primary_key=True),
    Column("path", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("layout_id", Text, nullable=False),
    Column("content_id", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("architecture", Text, nullable=False),
    Column("devices", Integer, nullable=False),
    Column("engine", Text, nullable=False),
    Column("engine_options", Text, nullable=False, comment="JSON"),
    Column("dtype", Text, nullable=False),
    Column("min_replicas", Integer, nullable=False),
    Column("max_replicas", Integer, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("keep_alive_seconds", Double, comment="NULL = as long as its load takes"),
    Column("priority", Integer, nullable=False),
    Column("queue_limit", Integer, nullable=False),
    Column("context_tokens", Integer, nullable=False),
    Column("deployed_at", Double, nullable=False),
)

nodes = Table(
    "nodes",
    metadata,
    Column("node_id", Text, primary_key=True),
    Column("incarnation", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("is_up", Boolean, nullable=False),
    Column("changed_at", Double, nullable=False),
    Column("devices", Integer, nullable=False),
    Column("device_kind", Text, nullable=False),
    Column("dram_bytes", BigInteger, nullable=False),
    Column("version", Text, nullable=False),
)

replicas = Table(
    "replicas",
    metadata,
    Column("replica_id", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("devices", Integer, nullable=False),
    Column("decision_id", Text, nullable=False),
    Column("changed_at", Double, nullable=False),
    Column("error", Text, nullable=False),
)

decisions = Table(
    "decisions",
    metadata,
    Column("decision_id", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("recording_offset", BigInteger, nullable=False),
    Column("policy", Text, nullable=False),
    Column("made_at", Double, nullable=False),
    Column("plan", Text, nullable=False, comment="JSON"),
    Column("reasons", Text, nullable=False, comment="JSON, a list of lines"),
    Column("outcome", Text, nullable=False),
    Column("finished_at", Double),
    Index(None, "made_at"),
)

PHASES = ("queue", "transfer", "worker", "bind", "handover", "prefill")


def _phase_columns(prefix: str) -> list[Column[float]]:
    return [Column(f"{prefix}_{phase}_seconds", Double) for phase in PHASES]


starts = Table(
    "starts",
    metadata,
    Column("replica_id", Text, primary_key=True),
    Column("decision_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("node_id", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("bytes_read", BigInteger, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ready_seconds", Double, nullable=False),
    Column("first_token_seconds", Double),
    *_phase_columns("estimated"),
    *_phase_columns("measured"),
    Column("checksum", Text, nullable=False),
    Column("bottleneck", Text, nullable=False),
    Column("error", Text, nullable=False),
    Index(None, "started_at", "replica_id"),
)

leadership = Table(
    "leadership",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("holder", Text, nullable=False),
    Column("expires_at", Double, nullable=False, comment="by the database's clock"),
    CheckConstraint("id = 1", name="single_row"),
)
