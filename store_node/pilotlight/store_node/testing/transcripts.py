"""Running an engine by hand and keeping what it says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pilotlight.store_node.engines.engine import Emission, Engine, Work
from pilotlight.store_node.protocol.values import FinishReason, RequestId, TokenLogprobs

# No test asks for as many steps; an engine that needs more hangs.
_MAX_STEPS = 100_000


@dataclass(slots=True)
class Transcript:
    """All that was emitted for one attempt, its numbering checked."""

    next_seq: int
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[TokenLogprobs] = field(default_factory=list[TokenLogprobs])
    finish_reason: FinishReason | None = None
    prefill_seconds: float = 0.0

    def add(self, emission: Emission) -> None:
        """Append tokens.

        Raises:
            AssertionError: they don't follow the ones before, or nothing was to follow.
        """
        assert self.finish_reason is None, f"{emission} comes after the end"
        assert emission.seq == self.next_seq, f"{emission} should begin at {self.next_seq}"
        self.next_seq += len(emission.token_ids)
        self.token_ids.extend(emission.token_ids)
        self.logprobs.extend(emission.logprobs)
        self.finish_reason = emission.finish_reason
        self.prefill_seconds += emission.prefill_seconds


def run_to_end(engine: Engine, works: Iterable[Work]) -> dict[RequestId, Transcript]:
    """Admit attempts together and step until all have ended."""
    transcripts: dict[RequestId, Transcript] = {}
    for work in works:
        engine.admit(work)
        transcripts[work.request_id] = Transcript(next_seq=len(work.emitted_ids))
    for _ in range(_MAX_STEPS):
        if not engine.is_busy:
            return transcripts
        for emission in engine.step():
            transcripts[emission.request_id].add(emission)
    raise AssertionError(f"the engine is still busy after {_MAX_STEPS} steps")
