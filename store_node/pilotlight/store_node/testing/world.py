"""A node core in a world without I/O, whose events a test brings about one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Self

from pilotlight.store_node.core import Capacity, CheckpointCopy, Evictor, LruEvictor, NodeCore
from pilotlight.store_node.core.actions import (
    Action,
    AllocateChunks,
    BindChunks,
    BindWorker,
    CancelLoad,
    KillWorker,
    ReleaseChunks,
    SubmitLoad,
    TakeWorker,
    UnbindChunks,
)
from pilotlight.store_node.core.events import (
    CopiesFound,
    Event,
    LoadFailed,
    LoadProgressed,
    LoadSucceeded,
    WorkerBound,
    WorkerDied,
    WorkerPrepared,
)
from pilotlight.store_node.engines.engine import Offer
from pilotlight.store_node.protocol import (
    ChannelId,
    CheckpointStatus,
    ChecksumState,
    Incarnation,
    Reference,
    ReplicaId,
    ReplicaStatus,
)
from pilotlight.store_node.protocol.refusals import ErrorCode
from pilotlight.store_node.testing.pool import StrictPool

CHUNK_BYTES = 1_000
INCARNATION = Incarnation("inc-1")
ENGINES: Mapping[str, str] = {"timed": "1"}


class NodeWorld:
    """A node core whose pool is strict and whose loads and workers end when the test says so.

    After every event the core's integrity is checked, and its accounts against
    the pool's.
    """

    def __init__(
        self,
        *,
        devices: int = 2,
        device_chunks: int = 4,
        dram_chunks: int = 8,
        evictor: Evictor | None = None,
    ) -> None:
        capacity = Capacity(
            n_devices=devices,
            device_chunks=device_chunks,
            dram_chunks=dram_chunks,
            chunk_bytes=CHUNK_BYTES,
        )
        self.core = NodeCore(
            incarnation=INCARNATION,
            capacity=capacity,
            engines=ENGINES,
            evictor=evictor or LruEvictor(),
        )
        self.pool = StrictPool(capacity.total_chunks)
        self.now = 100.0
        self.actions: list[Action] = []
        """What the last event led to."""
        self.loads: dict[Reference, str] = {}
        """Loads that have not ended."""
        self.cancelled_loads: set[str] = set()
        self.workers: dict[ReplicaId, str] = {}
        """Workers that have not died: "preparing", "binding" or "killed"."""
        self._copies: dict[Reference, CheckpointCopy] = {}

    def checkpoint(self, name: str, *, chunks: int = 2, version: int = 1) -> Reference:
        """Put a checkpoint below the model roots, or change the one of that name."""
        reference = Reference(name)
        self._copies[reference] = CheckpointCopy(
            reference=reference,
            path=f"/models/{name}",
            identity=f"{name}@{version}",
            ssd_channel=ChannelId("disk-1"),
            layout_id=f"layout-{name}-{version}",
            size_bytes=chunks * CHUNK_BYTES,
            n_chunks=chunks,
        )
        self.handle(CopiesFound(copies=tuple(self._copies.values())))
        return reference

    def break_checkpoint(self, reference: Reference, problem: str) -> None:
        """Have the scan find something wrong with a checkpoint."""
        copy = self._copies[reference]
        self._copies[reference] = dataclasses.replace(copy, problem=problem)
        self.handle(CopiesFound(copies=tuple(self._copies.values())))

    def remove_checkpoint(self, reference: Reference) -> None:
        """Delete a checkpoint from disk."""
        del self._copies[reference]
        self.handle(CopiesFound(copies=tuple(self._copies.values())))

    def after(self, seconds: float) -> Self:
        """Let time pass before the next event."""
        self.now += seconds
        return self

    def handle(self, event: Event) -> list[Action]:
        """Hand an event to the core and carry out what it asks for."""
        self.actions = self.core.handle(event, self.now)
        for action in self.actions:
            self._carry_out(action)
        self.core.check_integrity()
        self.pool.check_integrity()
        self._compare_accounts()
        return self.actions

    def asked_for(self, kind: type[Action]) -> list[Action]:
        """Return the last event's actions of one kind."""
        return [action for action in self.actions if isinstance(action, kind)]

    def progress(self, reference: Reference, done_bytes: int) -> None:
        """Have a load get that far."""
        self.handle(LoadProgressed(load_id=self.loads[reference], done_bytes=done_bytes))

    def finish_load(
        self, reference: Reference, *, queue_seconds: float = 0.0, busy_seconds: float = 1.0
    ) -> None:
        """Have a load succeed."""
        load_id = self.loads.pop(reference)
        self.handle(
            LoadSucceeded(
                load_id=load_id,
                bytes_read=self._size(reference),
                queue_seconds=queue_seconds,
                busy_seconds=busy_seconds,
                checksum=ChecksumState.LEARNED,
                bytes_digest=f"digest-{reference}",
                bottleneck="disk-bound",
            )
        )

    def fail_load(self, reference: Reference, code: ErrorCode | None) -> None:
        """Have a load fail, or with None: end as cancelled."""
        load_id = self.loads.pop(reference)
        self.handle(LoadFailed(load_id=load_id, code=code, message="it failed"))

    def prepare(self, replica: str = "r1", *, busy_seconds: float = 0.5) -> None:
        """Have a worker do what needs no weights."""
        self.handle(WorkerPrepared(replica_id=ReplicaId(replica), busy_seconds=busy_seconds))

    def bind(
        self,
        replica: str = "r1",
        *,
        concurrency: int = 4,
        kv_tokens: int | None = None,
        kv_block_tokens: int = 1,
        variant: str = "",
    ) -> None:
        """Have a worker attach its weights."""
        offer = Offer(
            concurrency=concurrency,
            context_tokens=128,
            dtype="F32",
            kv_tokens=kv_tokens,
            kv_block_tokens=kv_block_tokens,
            variant=variant,
        )
        self.handle(WorkerBound(replica_id=ReplicaId(replica), offer=offer))

    def die(self, replica: str = "r1", *, reason: str = "killed", log_tail: str = "") -> None:
        """Have a worker end, as told or by itself."""
        del self.workers[ReplicaId(replica)]
        self.handle(WorkerDied(replica_id=ReplicaId(replica), reason=reason, log_tail=log_tail))

    def status(self, replica: str = "r1") -> ReplicaStatus:
        """Return a replica's status."""
        status = self.core.reports.replica(ReplicaId(replica))
        assert status is not None
        return status

    def copy_status(self, reference: Reference) -> CheckpointStatus:
        """Return a checkpoint's status."""
        status = self.core.reports.checkpoint(reference)
        assert status is not None
        return status

    def chunks(self) -> tuple[int, int, int]:
        """Return the chunks that are free, DRAM's and the devices'."""
        accounts = self.core.reports.accounts()
        return (
            accounts.free_bytes // CHUNK_BYTES,
            accounts.cached_bytes // CHUNK_BYTES,
            accounts.bound_bytes // CHUNK_BYTES,
        )

    def _size(self, reference: Reference) -> int:
        return (
            len(self.pool.cached.get(reference, self.pool.bound.get(reference, ()))) * CHUNK_BYTES
        )

    def _carry_out(self, action: Action) -> None:
        match action:
            case AllocateChunks(reference=reference, n_chunks=n_chunks):
                self.pool.allocate(reference, n_chunks)
            case BindChunks(reference=reference):
                self.pool.bind(reference)
            case UnbindChunks(reference=reference):
                self.pool.unbind(reference)
            case ReleaseChunks(reference=reference):
                assert reference not in self.loads, f"a load still writes to {reference}"
                self.pool.release(reference)
            case SubmitLoad(load_id=load_id, reference=reference):
                assert reference not in self.loads, f"two loads of {reference}"
                assert reference in self.pool.cached
                self.loads[reference] = load_id
            case CancelLoad(load_id=load_id):
                assert load_id in self.loads.values()
                self.cancelled_loads.add(load_id)
            case _:
                self._carry_out_on_worker(action)

    def _carry_out_on_worker(self, action: Action) -> None:
        match action:
            case TakeWorker(spec=spec):
                assert spec.replica_id not in self.workers
                self.workers[spec.replica_id] = "preparing"
            case BindWorker(replica_id=replica_id, reference=reference):
                assert self.workers[replica_id] == "preparing"
                assert reference in self.pool.bound, "only bound chunks are mapped"
                assert reference not in self.loads, "the bytes are not there yet"
                self.workers[replica_id] = "binding"
            case KillWorker(replica_id=replica_id):
                assert self.workers[replica_id] != "killed"
                self.workers[replica_id] = "killed"
            case _:
                pass

    def _compare_accounts(self) -> None:
        """Hold the core's accounts against the pool's, which calls all cached that is loading."""
        free, cached, bound = self.chunks()
        loaded = sum(map(len, self.pool.bound.values()))
        assert free == self.pool.n_free
        assert free + cached + bound == self.pool.total_chunks
        assert loaded <= bound
        assert bound - loaded <= sum(len(self.pool.cached[each]) for each in self.loads)
