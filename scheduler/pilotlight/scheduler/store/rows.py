"""Records as rows and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import msgspec
from sqlalchemy import RowMapping

from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.store.records import (
    DecisionRecord,
    NodeRecord,
    Phases,
    ReplicaRecord,
    StartRecord,
)
from pilotlight.scheduler.store.tables import PHASES

Values = dict[str, Any]
Row = RowMapping


def model_values(model: Model) -> Values:
    """Return a model's row."""
    return _flat(model) | {"engine_options": _to_json(dict(sorted(model.engine_options.items())))}


def model_of(row: RowMapping) -> Model:
    """Return the model in a row."""
    values = dict(row)
    values["engine_options"] = msgspec.json.decode(row["engine_options"], type=dict[str, str])
    return Model(**values)


def node_values(node: NodeRecord) -> Values:
    """Return a node's row."""
    return _flat(node)


def node_record(row: RowMapping) -> NodeRecord:
    """Return the node in a row."""
    return NodeRecord(**row)


def replica_values(replica: ReplicaRecord) -> Values:
    """Return a replica's row."""
    return _flat(replica)


def replica_record(row: RowMapping) -> ReplicaRecord:
    """Return the replica in a row."""
    return ReplicaRecord(**row)


def decision_values(decision: DecisionRecord, *, epoch: int) -> Values:
    """Return a decision's row, as written by the leader of that epoch."""
    return _flat(decision) | {"reasons": _to_json(decision.reasons), "epoch": epoch}


def decision_record(row: RowMapping) -> DecisionRecord:
    """Return the decision in a row."""
    values = dict(row)
    values["reasons"] = msgspec.json.decode(row["reasons"], type=tuple[str, ...])
    return DecisionRecord(**values)


def start_values(start: StartRecord) -> Values:
    """Return a start's row, its phases side by side."""
    values = _flat(start)
    for prefix in ("estimated", "measured"):
        phases: Phases | None = values.pop(prefix)
        for phase in PHASES:
            name = f"{phase}_seconds"
            values[f"{prefix}_{name}"] = None if phases is None else getattr(phases, name)
    return values


def start_record(row: RowMapping) -> StartRecord:
    """Return the start in a row."""
    values = dict(row)
    for prefix in ("estimated", "measured"):
        values[prefix] = _phases({name: values.pop(f"{prefix}_{name}") for name in _PHASE_NAMES})
    return StartRecord(**values)


_PHASE_NAMES = tuple(f"{phase}_seconds" for phase in PHASES)


def _phases(seconds: Mapping[str, float | None]) -> Phases | None:
    """Return phases, or None where a start never had them."""
    return None if seconds["queue_seconds"] is None else msgspec.convert(seconds, Phases)


def _flat(record: Any) -> Values:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()
