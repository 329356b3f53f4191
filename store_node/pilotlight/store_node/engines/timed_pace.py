"""How long the passes of the `timed` engine take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pilotlight.store_node.engines.execution_profiles import read_execution_profile
from pilotlight.store_node.engines.timed_options import TimedOptions
from pilotlight.store_node.errors import InvalidOption


class Pace(Protocol):
    """Says how long computing takes."""

    def prefill_seconds(self, n_tokens: int) -> float:
        """Return how long a whole prompt of so many tokens takes, alone."""
        ...

    def decode_seconds(self, n_requests: int, n_tokens: float) -> float:
        """Return how long one token of each request takes, that have so many on average."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearPace:
    """Both times are `a + n * b`."""

    options: TimedOptions

    def prefill_seconds(self, n_tokens: int) -> float:
        """Return a time that grows with the tokens."""
        return self.options.prefill_seconds + n_tokens * self.options.prefill_seconds_per_token

    def decode_seconds(self, n_requests: int, n_tokens: float) -> float:
        """Return a time that grows with the requests, however long they are."""
        return self.options.decode_seconds + n_requests * self.options.decode_seconds_per_request


def choose_pace(options: TimedOptions, directory: Path) -> Pace:
    """Return the pace that the options name.

    Raises:
        InvalidOption: the profile can't be read, or lacks a name.
    """
    given = (options.profile_file, options.profile_model, options.profile_gpu)
    if not any(given):
        return LinearPace(options=options)
    if not all(given):
        raise InvalidOption(
            "a profile needs the engine options profile_file, profile_model and profile_gpu"
        )
    return read_execution_profile(
        directory / options.profile_file, model=options.profile_model, gpu=options.profile_gpu
    )


def chunk_seconds(pace: Pace, begin: int, end: int) -> float:
    """Return how long the tokens of a prompt from `begin` to `end` take.

    That is by how much longer the prompt takes up to `end`: so the chunks of a
    prompt take together what it takes as a whole, and later ones, which attend to
    more, take longer where the pace says so.
    """
    if begin == end:
        return 0.0
    before = pace.prefill_seconds(begin) if begin else 0.0
    return max(0.0, pace.prefill_seconds(end) - before)
