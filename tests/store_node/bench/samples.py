"""Samples as a bench would have taken them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pilotlight.store_node.bench.samples import Parts, Rival, Round, Start
from pilotlight.store_node.protocol import Tier

PARTS = Parts(
    read_seconds=0.2,
    is_read_direct=True,
    fork_seconds=0.01,
    prepare_seconds=0.02,
    bind_seconds=0.03,
    prefill_seconds=0.07,
    token_id=7,
)


def start(tier: Tier, total_seconds: float, *, is_worker_warm: bool = True, **more: Any) -> Start:
    """Return a start whose phases sum to its total, unless they are given."""
    usual = Start(
        tier=tier,
        is_worker_warm=is_worker_warm,
        total_seconds=total_seconds,
        ready_seconds=total_seconds - 0.07,
        phases={
            "queue": 0.0,
            "transfer": total_seconds - 0.1,
            "worker": 0.0,
            "bind": 0.03,
            "handover": 0.0,
            "prefill": 0.07,
        },
        teardown_seconds=0.012,
        node_teardown_seconds=0.011,
        bytes_read=1 << 20,
        bottleneck="disk-bound",
        token_id=7,
    )
    return replace(usual, **more)


def rival(tier: Tier, seconds: float, *, is_imported: bool = True, token_id: int = 7) -> Rival:
    return Rival(
        tier=tier, is_imported=is_imported, seconds=seconds, bytes_read=0, token_id=token_id
    )


def a_round(*starts: Start, rivals: tuple[Rival, ...] = (), parts: Parts = PARTS) -> Round:
    return Round(starts=starts, parts=parts, rivals=rivals)
