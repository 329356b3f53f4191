"""What one round of starts has measured, and what it could have been at best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pilotlight.store_node.bench.messages import BoundAlone
from pilotlight.store_node.bench.raw_read import RawRead
from pilotlight.store_node.protocol import StartOutcome, Tier

PHASES = ("queue", "transfer", "worker", "bind", "handover", "prefill")
"""The exclusive segments of a start, as a node reports them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start through a node, from the command to the first token."""

    tier: Tier
    is_worker_warm: bool
    """Whether a worker was idle before, or had to be forked."""
    total_seconds: float
    """From sending StartReplica to having the first token."""
    ready_seconds: float
    phases: Mapping[str, float]
    """Seconds by name, as the node says."""
    teardown_seconds: float
    """From sending StopReplica to being told that it is STOPPED."""
    node_teardown_seconds: float
    """The same, as the node says."""
    bytes_read: int
    bottleneck: str
    token_id: int

    @property
    def phases_error_percent(self) -> float:
        """Return by how much the phases' sum differs from the total."""
        return abs(sum(self.phases.values()) / self.total_seconds - 1) * 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a start consists of, each part done alone on an idle machine."""

    read_seconds: float
    """The files, as fast as the disk gives them."""
    is_read_direct: bool
    fork_seconds: float
    prepare_seconds: float
    bind_seconds: float
    prefill_seconds: float
    token_id: int

    @classmethod
    def of(cls, read: RawRead, bound: BoundAlone) -> Parts:
        """Put together what was measured apart."""
        return cls(
            read_seconds=read.seconds,
            is_read_direct=read.is_direct,
            fork_seconds=bound.fork_seconds,
            prepare_seconds=bound.prepare_seconds,
            bind_seconds=bound.bind_seconds,
            prefill_seconds=bound.prefill_seconds,
            token_id=bound.token_id,
        )

    def floor_seconds(self, start: Start) -> float:
        """Return what a start like that one takes at least.

        From DRAM, to bind and to compute the first token: all else can be done
        before or beside. From SSD, the bytes and a worker come first, side by side.
        """
        rest_seconds = self.bind_seconds + self.prefill_seconds
        if start.tier is Tier.DRAM:
            return rest_seconds
        return max(self.read_seconds, self.worker_seconds(start.is_worker_warm)) + rest_seconds

    def worker_seconds(self, is_warm: bool) -> float:
        """Return when a worker is ready for weights."""
        return self.prepare_seconds + (0.0 if is_warm else self.fork_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """One `from_pretrained` and its first token."""

    tier: Tier
    """SSD: its files were dropped from the page cache before; DRAM: they were brought there."""
    is_imported: bool
    """Whether the clock began after the imports, or before the process."""
    seconds: float
    bytes_read: int
    token_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Every way to start one checkpoint, once, in an order of chance."""

    starts: Sequence[Start]
    parts: Parts
    rivals: Sequence[Rival]

    def floor_ratio(self, start: Start) -> float:
        """Return how many times its floor a start of this round took."""
        return start.total_seconds / self.parts.floor_seconds(start)

    @property
    def agrees(self) -> bool:
        """Whether all ways gave the same first token."""
        tokens = {start.token_id for start in self.starts} | {r.token_id for r in self.rivals}
        return tokens == {self.parts.token_id}


def phases_of(outcome: StartOutcome) -> dict[str, float]:
    """Return a start's phases in seconds; what the node has not told counts as nothing."""
    return {name: getattr(outcome, f"{name}_seconds") or 0.0 for name in PHASES}
