"""Replicas: their states, what they hold, and the phases of their starts.

Theory of operation. A start takes a worker and holds its checkpoint in the same
instant; binding waits for both. Whatever ends a replica, it goes through
DRAINING while something of it is left: requests that may finish, a worker that
is not yet proven dead, a load that still writes to its chunks. Only then do its
devices and chunks return, and only then is it STOPPED or FAILED.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pilotlight.store_node.core.actions import Action, ReportReplica
from pilotlight.store_node.core.errors import InvalidTransition
from pilotlight.store_node.engines.engine import Offer
from pilotlight.store_node.protocol import (
    ChecksumState,
    CompatibilityKey,
    Reference,
    ReplicaId,
    ReplicaSpec,
    ReplicaState,
    RequestId,
    StartOutcome,
    Tier,
)

TRANSITIONS: Mapping[ReplicaState, frozenset[ReplicaState]] = MappingProxyType(
    {
        ReplicaState.STARTING: frozenset({ReplicaState.READY, ReplicaState.DRAINING}),
        ReplicaState.READY: frozenset({ReplicaState.DRAINING}),
        ReplicaState.DRAINING: frozenset({ReplicaState.STOPPED, ReplicaState.FAILED}),
        ReplicaState.STOPPED: frozenset(),
        ReplicaState.FAILED: frozenset(),
    }
)

MOST_ENDED_REPLICAS = 64
"""Ended replicas that a node still reports, so that a controller which was away learns of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a replica ended against its will: a word for programs, a line for people."""

    code: str
    message: str
    log_tail: str = ""
    """The last lines of its worker, where that died."""


@dataclass(slots=True, kw_only=True)
class StartClock:
    """When each part of a start ended, from which its phases follow."""

    began_at: float
    first_block_at: float | None = None
    loaded_at: float | None = None
    prepared_at: float | None = None
    bind_began_at: float | None = None
    ready_at: float | None = None
    bytes_read: int = 0
    disk_busy_seconds: float = 0.0
    worker_busy_seconds: float = 0.0
    checksum: ChecksumState | None = None
    bottleneck: str = ""


@dataclass(slots=True, kw_only=True)
class Replica:
    """One replica on this node."""

    spec: ReplicaSpec
    devices: tuple[int, ...]
    tier: Tier
    """Where its checkpoint was when the start began."""
    clock: StartClock
    evict: tuple[Reference, ...] = ()
    state: ReplicaState = ReplicaState.STARTING
    holds_chunks: bool = True
    is_worker_dead: bool = False
    failure: Failure | None = None
    """Why it ends against its will."""
    offer: Offer | None = None
    compatibility: CompatibilityKey | None = None
    outcome: StartOutcome | None = None
    idle_since: float = 0.0
    running: set[RequestId] = field(default_factory=set[RequestId])
    kv_tokens_held: int = 0
    """Of KV memory, by all that runs: reserved from admission to end, used or not."""
    drain_until: float = 0.0
    """While DRAINING: when what still runs is cut."""
    teardown_began_at: float | None = None
    """When its worker was told to end."""
    teardown_seconds: float = 0.0

    @property
    def replica_id(self) -> ReplicaId:
        """Its id."""
        return self.spec.replica_id

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it is left."""
        return self.state in (ReplicaState.STOPPED, ReplicaState.FAILED)

    @property
    def concurrency(self) -> int:
        """Requests at once: what the model's owner and the engine both allow."""
        wanted = max(1, self.spec.concurrency)
        return min(wanted, self.offer.concurrency) if self.offer else wanted

    def note_first_token(self, *, admitted_at: float, now: float) -> bool:
        """Complete the start's outcome with its last phases; return whether they were missing."""
        outcome, ready_at = self.outcome, self.clock.ready_at
        if outcome is None or ready_at is None or outcome.prefill_seconds is not None:
            return False
        self.outcome = dataclasses.replace(
            outcome, handover_seconds=admitted_at - ready_at, prefill_seconds=now - admitted_at
        )
        return True


class Replicas:
    """All replicas of the node, and the last ended ones."""

    def __init__(self, emit: Callable[[Action], None]) -> None:
        self._emit = emit
        self._replicas: OrderedDict[ReplicaId, Replica] = OrderedDict()
        self._alive: dict[ReplicaId, Replica] = {}
        self._unsettled: dict[ReplicaId, Replica] = {}
        self._barred: OrderedDict[ReplicaId, None] = OrderedDict()

    def __iter__(self) -> Iterator[Replica]:
        return iter(list(self._replicas.values()))

    def __getitem__(self, replica_id: ReplicaId) -> Replica:
        return self._replicas[replica_id]

    def alive(self) -> list[Replica]:
        """Return those of which something is left."""
        return list(self._alive.values())

    def unsettled(self) -> list[Replica]:
        """Return those that a step may be due for: all that are alive but for what just serves."""
        return list(self._unsettled.values())

    def fail(self, replica: Replica, failure: Failure) -> None:
        """Note why a replica ends against its will."""
        replica.failure = failure
        self._unsettled[replica.replica_id] = replica

    def get(self, replica_id: ReplicaId) -> Replica | None:
        """Return a replica that the node remembers."""
        return self._replicas.get(replica_id)

    def bar(self, replica_id: ReplicaId) -> None:
        """Never take a replica that was given up before its start came."""
        self._barred[replica_id] = None
        while len(self._barred) > MOST_ENDED_REPLICAS:
            self._barred.popitem(last=False)

    def is_barred(self, replica_id: ReplicaId) -> bool:
        """Whether a replica is not to be taken any more."""
        return replica_id in self._barred

    def add(self, replica: Replica) -> None:
        """Take a new replica, STARTING."""
        self._replicas[replica.replica_id] = self._alive[replica.replica_id] = replica
        self._unsettled[replica.replica_id] = replica
        self._emit(ReportReplica(replica_id=replica.replica_id))

    def move(self, replica: Replica, state: ReplicaState) -> None:
        """Bring a replica into its next state.

        Raises:
            InvalidTransition: the table does not allow it.
        """
        if state not in TRANSITIONS[replica.state]:
            raise InvalidTransition(f"{replica.replica_id}: {replica.state} to {state}")
        replica.state = state
        if state is ReplicaState.READY or replica.has_ended:
            self._unsettled.pop(replica.replica_id, None)
        else:
            self._unsettled[replica.replica_id] = replica
        self._emit(ReportReplica(replica_id=replica.replica_id))
        if replica.has_ended:
            del self._alive[replica.replica_id]
            self._replicas.move_to_end(replica.replica_id)
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        ended = [each.replica_id for each in self._replicas.values() if each.has_ended]
        for replica_id in ended[:-MOST_ENDED_REPLICAS]:
            del self._replicas[replica_id]


def outcome_of(replica: Replica, *, now: float) -> StartOutcome:
    """Return how a start that is complete `now` went.

    The phases are cut at the first block, the load's end and the beginning of
    the bind, each no earlier than the one before: they sum to the start's total.
    Where nothing was read, the first two have no length. What of the bind was
    moving weights to the devices counts as transfer.
    """
    clock = replica.clock
    loaded_at = clock.began_at if clock.loaded_at is None else clock.loaded_at
    first_block_at = loaded_at if clock.first_block_at is None else clock.first_block_at
    first_block_at = min(max(first_block_at, clock.began_at), loaded_at)
    bind_began_at = now if clock.bind_began_at is None else clock.bind_began_at
    bind_seconds = now - bind_began_at
    copy_seconds = min(replica.offer.copy_seconds, bind_seconds) if replica.offer else 0.0
    return StartOutcome(
        tier=replica.tier,
        bytes_read=clock.bytes_read,
        queue_seconds=first_block_at - clock.began_at,
        transfer_seconds=loaded_at - first_block_at + copy_seconds,
        worker_seconds=bind_began_at - loaded_at,
        bind_seconds=bind_seconds - copy_seconds,
        disk_busy_seconds=clock.disk_busy_seconds,
        worker_busy_seconds=clock.worker_busy_seconds,
        checksum=clock.checksum,
        bottleneck=clock.bottleneck,
        copied_bytes=replica.offer.copied_bytes if replica.offer else 0,
    )
