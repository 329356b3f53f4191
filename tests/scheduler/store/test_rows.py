from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.store import rows
from pilotlight.scheduler.store.records import (
    DecisionRecord,
    NodeRecord,
    ReplicaRecord,
    StartRecord,
)
from pilotlight.scheduler.store.tables import decisions, models, nodes, replicas, starts


def decision_values(decision: DecisionRecord) -> rows.Values:
    return rows.decision_values(decision, epoch=decision.epoch)


PAIRS: list[tuple[Any, Any, Any, Any]] = [
    (Model, models, rows.model_values, rows.model_of),
    (NodeRecord, nodes, rows.node_values, rows.node_record),
    (ReplicaRecord, replicas, rows.replica_values, rows.replica_record),
    (DecisionRecord, decisions, decision_values, rows.decision_record),
    (StartRecord, starts, rows.start_values, rows.start_record),
]


@pytest.mark.property
@pytest.mark.parametrize(
    ("record_type", "table", "values", "record"), PAIRS, ids=[pair[0].__name__ for pair in PAIRS]
)
@given(data=st.data())
def test_a_record_fills_its_row_and_comes_back(
    record_type: Any, table: Any, values: Any, record: Any, data: st.DataObject
) -> None:
    given_record = data.draw(st.builds(record_type))

    row = values(given_record)

    assert set(row) == set(table.columns.keys())
    assert record(row) == given_record
