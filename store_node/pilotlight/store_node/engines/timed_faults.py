"""Failures of the `timed` engine, each when it is asked for."""

from __future__ import annotations

import os
import signal
from typing import Annotated, Literal, NoReturn

import msgspec

from pilotlight.store_node.engines.clock import Clock
from pilotlight.store_node.engines.engine import WorkFailure

Failure = Literal["", "crash", "error", "out_of_memory", "stall"]
Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**31)]

_LONG_SECONDS = 3600.0


class FaultOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Which failures are asked for; by default none.

    "crash" kills the process, as the kernel does to one that is out of memory;
    "error" raises; "out_of_memory" raises MemoryError; "stall" never returns.
    """

    fail_prepare: Failure = ""
    """How it fails while the weights are loading."""
    fail_bind: Failure = ""
    """How it fails when they are there."""
    crash_after_tokens: Tokens | None = None
    """The process is killed once all requests together have emitted so many tokens."""
    stall_after_tokens: Tokens | None = None
    """From so many tokens on nothing is emitted, while requests still come and go."""
    nan_after_tokens: Tokens | None = None
    """A request fails, alone, when so many of its tokens are there: those of earlier
    attempts count, as a model that computes no number computes none elsewhere."""


class Faults:
    """Decides when what was asked for happens."""

    def __init__(self, options: FaultOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._n_emitted = 0

    def strike_prepare(self) -> None:
        """Fail while preparing, if asked to."""
        self._strike("fail_prepare", self._options.fail_prepare)

    def strike_bind(self) -> None:
        """Fail while binding, if asked to."""
        self._strike("fail_bind", self._options.fail_bind)

    def strike_step(self) -> None:
        """Kill the process, if enough was emitted; called before each step, so all of it is out."""
        if _has_come(self._options.crash_after_tokens, self._n_emitted):
            _crash()

    @property
    def is_stalled(self) -> bool:
        """True when nothing is to be emitted any more."""
        return _has_come(self._options.stall_after_tokens, self._n_emitted)

    def work_failure(self, seq: int) -> WorkFailure | None:
        """Return why token number `seq` of a request can't be computed, if it can't."""
        if not _has_come(self._options.nan_after_tokens, seq):
            return None
        return WorkFailure(
            code="invalid_logits",
            message=f"token {seq} can't be computed, as the option nan_after_tokens says",
        )

    def count(self, n_tokens: int) -> None:
        """Count tokens that are being emitted."""
        self._n_emitted += n_tokens

    def _strike(self, option: str, failure: Failure) -> None:
        match failure:
            case "crash":
                _crash()
            case "error":
                raise RuntimeError(f"the option {option} says so")
            case "out_of_memory":
                raise MemoryError(f"the option {option} says so")
            case "stall":
                self._stall()
            case "":
                pass

    def _stall(self) -> NoReturn:
        while True:
            self._clock.wait_until(self._clock.now() + _LONG_SECONDS)


def _has_come(limit: int | None, n_tokens: int) -> bool:
    return limit is not None and n_tokens >= limit


def _crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
