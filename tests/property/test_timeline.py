from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.estimators import StartEstimator, Timeline
from pilotlight.estimators.testing import ViewCase

pytestmark = pytest.mark.property

N_MODELS = 3
SIZES = st.integers(0, 8 * 10**9)


@st.composite
def clusters(draw: st.DrawFn) -> ViewCase:
    """Return nodes with and without disks, devices and copies, some disks shared and busy."""
    case = ViewCase()
    case.channel("link", bytes_per_second=20.0e9)
    models = [
        case.model(size_bytes=draw(SIZES), devices=draw(st.integers(1, 2))) for _ in range(N_MODELS)
    ]
    some_models = st.sets(st.sampled_from(models))
    nodes = [
        case.node(
            devices=draw(st.integers(-1, 3)),
            ssd=draw(some_models),
            dram=draw(some_models),
            disk=draw(st.sampled_from([None, "", "shared"])),
            link=draw(st.sampled_from(["", "link"])),
            warm_workers=draw(st.integers(0, 1)),
        )
        for _ in range(draw(st.integers(1, 4)))
    ]
    for _ in range(draw(st.integers(0, 3))):
        model, node = draw(st.sampled_from([-1, *models])), draw(st.sampled_from(nodes))
        case.load(model, node, left_bytes=draw(SIZES))
    for _ in range(draw(st.integers(0, 3))):
        case.replica(draw(st.sampled_from(nodes)), devices=draw(st.integers(1, 2)))
    return case


@given(case=clusters(), data=st.data())
def test_the_column_of_first_tokens_is_what_each_start_would_do(
    case: ViewCase, data: st.DataObject
) -> None:
    view = case.view()
    timeline = StartEstimator().timeline(view)
    nodes, replicas = len(view.node_ids), list(range(len(view.replica_ids)))
    for _ in range(data.draw(st.integers(0, 4))):
        model, node = data.draw(st.integers(0, N_MODELS - 1)), data.draw(st.integers(0, nodes - 1))
        match data.draw(st.sampled_from(["start", "fetch", "stop"])):
            case "start":
                timeline.add_start(model, node)
            case "fetch":
                timeline.add_fetch(model, node)
            case _ if replicas:
                timeline.add_stop(replicas.pop())
            case _:
                pass
        _check_columns(timeline, nodes)


@given(case=clusters(), model=st.integers(0, N_MODELS - 1), node=st.integers(0, 3))
def test_a_start_makes_no_other_start_sooner(case: ViewCase, model: int, node: int) -> None:
    view = case.view()
    timeline = StartEstimator().timeline(view)
    node = node % len(view.node_ids)
    before = [timeline.first_token_seconds(other) for other in range(N_MODELS)]

    timeline.add_start(model, node)

    for other in range(N_MODELS):
        if other != model:
            assert (timeline.first_token_seconds(other) >= before[other]).all()


def _check_columns(timeline: Timeline, n_nodes: int) -> None:
    for model in range(N_MODELS):
        column = timeline.first_token_seconds(model)
        each = [timeline.fork().add_start(model, node) for node in range(n_nodes)]
        np.testing.assert_allclose(column, [start.first_token_seconds for start in each])
        for start in each:
            phases = (start.transfer_seconds, start.worker_seconds, start.bind_seconds)
            assert min(start.queue_seconds, start.prefill_seconds, *phases) >= 0.0
