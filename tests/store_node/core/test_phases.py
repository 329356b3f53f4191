from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.store_node.core.errors import InvalidTransition
from pilotlight.store_node.core.replicas import (
    TRANSITIONS,
    Replica,
    Replicas,
    StartClock,
    outcome_of,
)
from pilotlight.store_node.engines.engine import Offer
from pilotlight.store_node.protocol import (
    ModelId,
    Reference,
    ReplicaId,
    ReplicaSpec,
    ReplicaState,
    Tier,
)

SPEC = ReplicaSpec(replica_id=ReplicaId("r"), model=ModelId("m"), reference=Reference("c"))
seconds = st.floats(0.0, 1e6)


def replica_with(clock: StartClock) -> Replica:
    return Replica(spec=SPEC, devices=(0,), tier=Tier.SSD, clock=clock)


@pytest.mark.property
@given(
    began=seconds,
    waits=st.tuples(seconds, seconds, seconds),
    first_block=seconds,
    copy_seconds=seconds,
)
def test_phases_are_never_negative_and_sum_to_the_total(
    began: float, waits: tuple[float, float, float], first_block: float, copy_seconds: float
) -> None:
    loaded = began + waits[0]
    bind_began = loaded + waits[1]
    ready = bind_began + waits[2]
    clock = StartClock(
        began_at=began,
        first_block_at=first_block,
        loaded_at=loaded,
        bind_began_at=bind_began,
    )

    replica = replica_with(clock)
    replica.offer = Offer(
        concurrency=1, context_tokens=1, dtype="float32", copy_seconds=copy_seconds
    )

    outcome = outcome_of(replica, now=ready)

    phases = (
        outcome.queue_seconds,
        outcome.transfer_seconds,
        outcome.worker_seconds,
        outcome.bind_seconds,
    )
    assert min(phases) >= 0.0
    assert sum(phases) == pytest.approx(ready - began, abs=1e-6)


def test_moving_weights_to_devices_counts_as_transfer() -> None:
    replica = replica_with(StartClock(began_at=1.0, loaded_at=3.0, bind_began_at=3.0))
    replica.offer = Offer(concurrency=1, context_tokens=1, dtype="float32", copy_seconds=0.75)

    outcome = outcome_of(replica, now=4.0)

    # From 1 s to 3 s nothing is known of a first block; the bind was 1 s, of that 0.75 s a copy.
    assert outcome.transfer_seconds == 0.75
    assert outcome.bind_seconds == 0.25


@pytest.mark.parametrize("state", list(ReplicaState))
def test_only_the_tables_transitions_are_possible(state: ReplicaState) -> None:
    for target in ReplicaState:
        replica = replica_with(StartClock(began_at=0.0))
        replica.state = state
        replicas = Replicas(lambda _: None)
        replicas.add(replica)
        if target in TRANSITIONS[state]:
            replicas.move(replica, target)
            assert replica.state is target
        else:
            with pytest.raises(InvalidTransition, match=target):
                replicas.move(replica, target)


def test_nothing_follows_an_end() -> None:
    assert not TRANSITIONS[ReplicaState.STOPPED]
    assert not TRANSITIONS[ReplicaState.FAILED]
