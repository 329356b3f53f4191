"""Requests that come and go while an engine steps, and what each of them got."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from pilotlight.process.bench.errors import BenchFailed
from pilotlight.store_node.engines.engine import Emission, Engine, Extension, Work, WorkRefused
from pilotlight.store_node.protocol.values import FinishReason, RequestId

STEPS_PER_WIDTH = 10
"""How long as many requests at once are let in, before it is another number."""

_MOST_IDLE_STEPS = 10_000
"""An engine that is busy and emits nothing for so long hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """One attempt in a crowd."""

    work: Work
    arrives_at: int = 0
    """The step before which it comes; it waits where there is no room."""
    cancelled_after: int | None = None
    """Steps after its admission; None = never."""
    pieces: Sequence[tuple[int, ...]] = ()
    """For a held attempt: the tokens of each extension, the last of which releases it."""
    pause_steps: int = 0
    """How long it takes until the next extension comes, once the engine is prepared for it."""


@dataclass(slots=True)
class Output:
    """What one attempt got."""

    token_ids: list[int] = field(default_factory=list[int])
    finish_reason: FinishReason | None = None
    is_cancelled: bool = False


class Crowd:
    """Drives one engine; every guest is admitted once."""

    def __init__(
        self, engine: Engine, guests: Iterable[Guest], *, widths: Sequence[int] = (1,)
    ) -> None:
        """Let in as many at once as `widths` say, one after another and again from the first."""
        self._engine = engine
        self._waiting = sorted(guests, key=lambda guest: guest.arrives_at)
        self._widths = widths
        self._present: dict[RequestId, _Present] = {}
        self._outputs: dict[RequestId, Output] = {}

    def run(self) -> dict[RequestId, Output]:
        """Step until all have come and gone.

        Raises:
            BenchFailed: the engine breaks its contract.
        """
        step = n_idle = 0
        while self._waiting or self._present:
            self._admit(step)
            self._cancel(step)
            self._extend(step)
            emissions = self._engine.step()
            for emission in emissions:
                self._take(emission, step)
            step += 1
            n_idle = 0 if emissions else n_idle + 1
            if n_idle > _MOST_IDLE_STEPS:
                raise BenchFailed(f"nothing came of {n_idle} steps; {len(self._present)} wait")
        return self._outputs

    def _admit(self, step: int) -> None:
        width = self._widths[step // STEPS_PER_WIDTH % len(self._widths)]
        while (
            self._waiting
            and self._waiting[0].arrives_at <= step
            and len(self._present) < width
            and self._is_admitted(self._waiting[0].work)
        ):
            guest = self._waiting.pop(0)
            request_id = guest.work.request_id
            self._outputs[request_id] = Output()
            self._present[request_id] = _Present(guest, admitted_at=step)

    def _is_admitted(self, work: Work) -> bool:
        try:
            self._engine.admit(work)
        except WorkRefused as refusal:
            if refusal.code != "full" or not self._present:
                raise BenchFailed(f"{work.request_id} is refused: {refusal}") from refusal
            return False
        return True

    def _cancel(self, step: int) -> None:
        for request_id, present in list(self._present.items()):
            if step >= present.cancelled_at:
                self._engine.cancel(request_id)
                self._outputs[request_id].is_cancelled = True
                del self._present[request_id]

    def _extend(self, step: int) -> None:
        for present in self._present.values():
            if present.extended_at == step:
                self._engine.extend(present.next_extension())

    def _take(self, emission: Emission, step: int) -> None:
        present = self._present.get(emission.request_id)
        if present is None:
            raise BenchFailed(f"{emission.request_id} has ended, and {emission} came after")
        present.check(emission)
        if emission.is_prepared:
            present.extended_at = step + 1 + present.guest.pause_steps
            return
        output = self._outputs[emission.request_id]
        output.token_ids += emission.token_ids
        output.finish_reason = emission.finish_reason
        present.next_seq += len(emission.token_ids)
        if emission.finish_reason is not None:
            del self._present[emission.request_id]


class _Present:
    """A guest that was let in."""

    def __init__(self, guest: Guest, *, admitted_at: int) -> None:
        self.guest = guest
        self.next_seq = len(guest.work.emitted_ids)
        self.extended_at: int | None = None
        self._n_extensions = 0
        leaves_after = guest.cancelled_after
        self.cancelled_at = float("inf") if leaves_after is None else admitted_at + leaves_after

    def next_extension(self) -> Extension:
        """Return the next piece; the last one is of another attempt, as a switch's is."""
        work, pieces = self.guest.work, self.guest.pieces
        emitted_ids = pieces[self._n_extensions]
        self._n_extensions += 1
        is_last = self._n_extensions == len(pieces)
        self.next_seq += len(emitted_ids)
        return Extension(
            request_id=work.request_id,
            attempt=work.attempt + (1 if is_last else 0),
            emitted_ids=emitted_ids,
            is_held=not is_last,
        )

    def check(self, emission: Emission) -> None:
        """Raise BenchFailed where an emission does not follow from what was asked for."""
        is_held = self._n_extensions < len(self.guest.pieces)
        if emission.failure is not None:
            raise BenchFailed(f"{emission.request_id} failed: {emission.failure.message}")
        if emission.seq != self.next_seq or emission.is_prepared != is_held:
            raise BenchFailed(f"{emission} should begin at {self.next_seq}, held: {is_held}")


def alone(engine: Engine, works: Iterable[Work]) -> dict[RequestId, Output]:
    """Return what each attempt gets that has the engine to itself."""
    outputs: dict[RequestId, Output] = {}
    for work in works:
        outputs |= Crowd(engine, [Guest(work=work)]).run()
    return outputs


def renamed(work: Work, suffix: str) -> Work:
    """Return the same request under another name."""
    return replace(work, request_id=RequestId(f"{work.request_id}{suffix}"))
