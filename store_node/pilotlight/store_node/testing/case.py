"""A node core that a test commands and sends requests to."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pilotlight.store_node.core.actions import Action, Deliver, EndStream, Reply
from pilotlight.store_node.core.events import (
    CancelReceived,
    Command,
    CommandReceived,
    RequestReceived,
    TokensEmitted,
)
from pilotlight.store_node.engines.engine import Emission, WorkFailure
from pilotlight.store_node.protocol import (
    CancelRequestRequest,
    CancelStartRequest,
    CommandHeader,
    CompatibilityKey,
    EvictCheckpointRequest,
    FetchCheckpointRequest,
    FinishReason,
    GenerateRequest,
    ModelId,
    PinCheckpointRequest,
    Reference,
    ReplicaId,
    ReplicaSpec,
    RequestId,
    Sampling,
    StartReplicaRequest,
    StopReplicaRequest,
)
from pilotlight.store_node.protocol.refusals import ErrorCode, Refusal
from pilotlight.store_node.testing.world import INCARNATION, NodeWorld


class NodeCase(NodeWorld):
    """A world with shortcuts for what controllers and routers send.

    Commands and requests return the refusal, or None.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._keys = itertools.count(1)

    def header(self, *, key: str = "", epoch: int = 1) -> CommandHeader:
        """Return a header, with a new key where none is given."""
        return CommandHeader(
            epoch=epoch,
            incarnation=INCARNATION,
            idempotency_key=key or f"key-{next(self._keys)}",
        )

    def command(self, command: Command) -> Refusal | None:
        """Send any command."""
        self.handle(CommandReceived(ticket=1, command=command))
        return self._answer()

    def start(
        self,
        reference: Reference,
        replica: str = "r1",
        *,
        devices: int = 1,
        concurrency: int = 1,
        priority: int = 0,
        evict: Sequence[Reference] = (),
        header: CommandHeader | None = None,
        engine: str = "timed",
        layout_id: str = "",
        engine_options: Mapping[str, str] | None = None,
    ) -> Refusal | None:
        """Start a replica."""
        spec = ReplicaSpec(
            replica_id=ReplicaId(replica),
            model=ModelId("m"),
            reference=reference,
            layout_id=layout_id,
            devices=devices,
            engine=engine,
            engine_options=engine_options or {},
            concurrency=concurrency,
        )
        return self.command(
            StartReplicaRequest(
                header=header or self.header(), spec=spec, priority=priority, evict=tuple(evict)
            )
        )

    def stop(
        self, replica: str = "r1", *, if_idle: bool = False, grace_seconds: float = 0.0
    ) -> Refusal | None:
        """Stop a replica."""
        return self.command(
            StopReplicaRequest(
                header=self.header(),
                replica_id=ReplicaId(replica),
                if_idle=if_idle,
                grace_seconds=grace_seconds,
            )
        )

    def cancel_start(self, replica: str = "r1") -> Refusal | None:
        """Give a start up."""
        return self.command(CancelStartRequest(header=self.header(), replica_id=ReplicaId(replica)))

    def fetch(self, reference: Reference, *, priority: int = 0) -> Refusal | None:
        """Prefetch a checkpoint."""
        return self.command(
            FetchCheckpointRequest(header=self.header(), reference=reference, priority=priority)
        )

    def evict(self, reference: Reference) -> Refusal | None:
        """Evict a checkpoint."""
        return self.command(EvictCheckpointRequest(header=self.header(), reference=reference))

    def pin(self, reference: Reference, *, pinned: bool = True) -> Refusal | None:
        """Pin a checkpoint."""
        return self.command(
            PinCheckpointRequest(header=self.header(), reference=reference, pinned=pinned)
        )

    def generate(
        self,
        request: str = "q1",
        replica: str = "r1",
        *,
        attempt: int = 1,
        emitted: Sequence[int] = (),
        deadline_seconds: float = 60.0,
        compatibility: CompatibilityKey | None = None,
        max_tokens: int = 16,
        epoch: int = 1,
    ) -> Refusal | None:
        """Ask for an attempt of three prompt ids to run."""
        self.handle(
            RequestReceived(
                ticket=1,
                request=GenerateRequest(
                    request_id=RequestId(request),
                    attempt=attempt,
                    epoch=epoch,
                    incarnation=INCARNATION,
                    idempotency_key=f"{request}/{attempt}",
                    deadline_seconds=deadline_seconds,
                    replica_id=ReplicaId(replica),
                    compatibility=compatibility,
                    prompt_ids=(1, 2, 3),
                    emitted_ids=tuple(emitted),
                    sampling=Sampling(max_tokens=max_tokens),
                ),
            )
        )
        return self._answer()

    def cancel(self, request: str = "q1", *, attempt: int = 1) -> Refusal | None:
        """Cancel a request."""
        self.handle(
            CancelReceived(
                ticket=1,
                request=CancelRequestRequest(
                    request_id=RequestId(request),
                    attempt=attempt,
                    epoch=1,
                    incarnation=INCARNATION,
                    idempotency_key="",
                ),
            )
        )
        return self._answer()

    def emit(
        self,
        request: str = "q1",
        replica: str = "r1",
        *,
        attempt: int = 1,
        seq: int = 0,
        tokens: Sequence[int] = (7,),
        finish: FinishReason | None = None,
        failure: WorkFailure | None = None,
    ) -> list[Action]:
        """Have a worker compute tokens."""
        emission = Emission(
            request_id=RequestId(request),
            attempt=attempt,
            seq=seq,
            token_ids=tuple(tokens),
            finish_reason=finish,
            prefill_seconds=0.25,
            failure=failure,
        )
        return self.handle(TokensEmitted(replica_id=ReplicaId(replica), emissions=(emission,)))

    def ended_streams(self) -> dict[RequestId, ErrorCode | FinishReason]:
        """Return which streams the last event ended, and how."""
        ends: dict[RequestId, ErrorCode | FinishReason] = {}
        for action in self.actions:
            if isinstance(action, EndStream):
                ends[action.request_id] = action.refusal.code
            elif isinstance(action, Deliver) and action.emission.finish_reason is not None:
                ends[action.emission.request_id] = action.emission.finish_reason
        return ends

    def run(
        self,
        reference: Reference,
        replica: str = "r1",
        *,
        concurrency: int = 4,
        kv_tokens: int | None = None,
        kv_block_tokens: int = 1,
    ) -> None:
        """Bring a replica up to READY."""
        assert self.start(reference, replica, concurrency=concurrency) is None
        if reference in self.loads:
            self.finish_load(reference)
        self.prepare(replica)
        self.bind(
            replica,
            concurrency=concurrency,
            kv_tokens=kv_tokens,
            kv_block_tokens=kv_block_tokens,
        )

    def end(self, replica: str = "r1") -> None:
        """Stop a replica and wait for its end."""
        assert self.stop(replica) is None
        self.die(replica)

    def _answer(self) -> Refusal | None:
        replies = [action for action in self.actions if isinstance(action, Reply)]
        assert len(replies) == 1, self.actions
        return replies[0].refusal
