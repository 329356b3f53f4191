"""Running an engine by hand and keeping what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pilotlight.store_node.engines.engine import Emission, Engine, Extension, Work, WorkFailure
from pilotlight.store_node.protocol.values import FinishReason, RequestId, TokenLogprobs

MAX_STEPS = 100_000
"""No test asks for as many steps; an engine that needs more hangs."""


@dataclass(slots=True)
class Transcript:
    """All that was emitted for one attempt, its numbering checked."""

    next_seq: int
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[TokenLogprobs] = field(default_factory=list[TokenLogprobs])
    finish_reason: FinishReason | None = None
    prefill_seconds: float = 0.0
    attempt: int = 0
    """That all its emissions must carry; 0: any."""
    is_held: bool = False
    """True while no token and no end may come."""
    is_prepared: bool = False
    """True when all that a held attempt was given is computed."""
    failure: WorkFailure | None = None

    @property
    def has_ended(self) -> bool:
        """True when nothing may follow."""
        return self.finish_reason is not None or self.failure is not None

    def add(self, emission: Emission) -> None:
        """Append tokens.

        Raises:
            AssertionError: they don't follow the ones before, or nothing was to follow.
        """
        assert not self.has_ended, f"{emission} comes after the end"
        assert emission.seq == self.next_seq, f"{emission} should begin at {self.next_seq}"
        assert self.attempt in (0, emission.attempt), f"{emission} is not of {self.attempt}"
        if self.is_held:
            self._check_notice(emission)
        else:
            assert not emission.is_prepared, f"{emission} is of no held attempt"
        self.next_seq += len(emission.token_ids)
        self.token_ids.extend(emission.token_ids)
        self.logprobs.extend(emission.logprobs)
        self.finish_reason = emission.finish_reason
        self.failure = emission.failure
        self.prefill_seconds += emission.prefill_seconds

    def extend(self, extension: Extension) -> None:
        """Note what a held attempt was given."""
        self.next_seq += len(extension.emitted_ids)
        self.attempt = extension.attempt
        self.is_held = extension.is_held
        self.is_prepared = False

    def _check_notice(self, emission: Emission) -> None:
        says_nothing = not emission.token_ids and emission.finish_reason is None
        assert says_nothing, f"{emission} is of a held attempt"
        self.is_prepared = emission.is_prepared


class EngineRun:
    """Steps an engine by hand; keeps and checks what it says of each request.

    What comes for a request that is not here, or not any more, fails.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.transcripts: dict[RequestId, Transcript] = {}

    def admit(self, work: Work) -> Transcript:
        """Admit an attempt, or raise WorkRefused; return what it will have said."""
        self.engine.admit(work)
        transcript = Transcript(
            next_seq=len(work.emitted_ids), attempt=work.attempt, is_held=work.is_held
        )
        self.transcripts[work.request_id] = transcript
        return transcript

    def extend(self, extension: Extension) -> None:
        """Extend a held attempt, or raise WorkRefused."""
        self.engine.extend(extension)
        self.transcripts[extension.request_id].extend(extension)

    def cancel(self, request_id: RequestId) -> None:
        """Cancel a request; its transcript is given up."""
        self.engine.cancel(request_id)
        self.transcripts.pop(request_id, None)

    def step(self) -> Sequence[Emission]:
        """Step once."""
        emissions = self.engine.step()
        for emission in emissions:
            self.transcripts[emission.request_id].add(emission)
        return emissions

    def until(self, condition: Callable[[], bool]) -> None:
        """Step until something is so.

        Raises:
            AssertionError: it will not be so: the engine has nothing left to do.
        """
        for _ in range(MAX_STEPS):
            if condition():
                return
            assert self.engine.is_busy, "the engine has nothing left to do"
            self.step()
        raise AssertionError(f"the engine is still busy after {MAX_STEPS} steps")

    def to_end(self) -> None:
        """Step until the engine has nothing left to do."""
        self.until(lambda: not self.engine.is_busy)


def run_to_end(engine: Engine, works: Iterable[Work]) -> dict[RequestId, Transcript]:
    """Admit attempts together and step until all have ended."""
    run = EngineRun(engine)
    for work in works:
        run.admit(work)
    run.to_end()
    return run.transcripts
