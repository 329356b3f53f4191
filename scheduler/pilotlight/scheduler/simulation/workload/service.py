"""How long each request is: its tokens, and maybe the seconds that they take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from pilotlight.scheduler.simulation.workload.checks import check_positive
from pilotlight.scheduler.simulation.workload.errors import InvalidWorkload
from pilotlight.scheduler.traces import (
    BrokenTrace,
    Lengths,
    Record,
    TracedRequest,
    TraceFile,
    detect,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CHARACTERS_PER_TOKEN = 4
"""Of English prose, about."""
MOST_KEPT = 1 << 16
"""Rows of a trace that lengths are drawn from; of longer ones a fair sample is kept."""

Distribution = Literal["fixed", "exponential", "lognormal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Several requests, in the order of arrival."""

    prompt_tokens: Ints
    output_tokens: Ints
    """At least 1."""
    serve_seconds: Floats | None = None
    """From the first token to the last; None = as the tokens take."""


class Service(Protocol):
    """Draws how long requests are."""

    def draw(self, rng: np.random.Generator, n: int) -> Drawn:
        """Return [n] requests."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedTokens:
    """All requests have as many tokens, which take as long as their model's serve times say."""

    prompt_tokens: int = 1
    output_tokens: int = 1

    def draw(self, rng: np.random.Generator, n: int) -> Drawn:
        """Return [n] equal requests."""
        return Drawn(
            prompt_tokens=np.full(n, self.prompt_tokens),
            output_tokens=np.full(n, self.output_tokens),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnSeconds:
    """Seconds from a distribution, whatever the tokens are."""

    mean_seconds: float
    distribution: Distribution = "fixed"
    cv: float = 1.0
    """Standard deviation by mean, of the lognormal distribution."""
    prompt_tokens: int = 1
    output_tokens: int = 1
    tokens_per_second: float | None = None
    """What a request emits meanwhile, instead of `output_tokens`; at least one token."""

    def __post_init__(self) -> None:
        check_positive("mean_seconds", self.mean_seconds)
        check_positive("cv", self.cv)
        if self.tokens_per_second is not None:
            check_positive("tokens_per_second", self.tokens_per_second)

    def draw(self, rng: np.random.Generator, n: int) -> Drawn:
        """Return [n] requests."""
        seconds = self._seconds(rng, n)
        outputs = np.full(n, self.output_tokens)
        if self.tokens_per_second is not None:
            outputs = np.maximum(np.rint(seconds * self.tokens_per_second), 1).astype(np.int64)
        return Drawn(
            prompt_tokens=np.full(n, self.prompt_tokens),
            output_tokens=outputs,
            serve_seconds=seconds,
        )

    def _seconds(self, rng: np.random.Generator, n: int) -> Floats:
        if self.distribution == "fixed":
            return np.full(n, self.mean_seconds)
        if self.distribution == "exponential":
            return rng.exponential(self.mean_seconds, n)
        variance = math.log1p(self.cv**2)
        return rng.lognormal(math.log(self.mean_seconds) - variance / 2, math.sqrt(variance), n)


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedLengths:
    """Tokens of a trace's rows, drawn with replacement."""

    prompt_tokens: Ints
    output_tokens: Ints
    seconds_per_output_token: float | None = None
    """None = as their model's serve times say."""

    def draw(self, rng: np.random.Generator, n: int) -> Drawn:
        """Return [n] requests."""
        rows = rng.integers(len(self.prompt_tokens), size=n)
        outputs = self.output_tokens[rows]
        pace = self.seconds_per_output_token
        return Drawn(
            prompt_tokens=self.prompt_tokens[rows],
            output_tokens=outputs,
            serve_seconds=None if pace is None else outputs.astype(np.float64) * pace,
        )


def read_lengths(
    files: Sequence[Path],
    rng: np.random.Generator,
    *,
    mean_serve_seconds: float | None = None,
    most_tokens: int | None = None,
) -> TracedLengths:
    """Return the lengths in traces of requests or of texts, those without an output left out.

    `most_tokens` is where a prompt, and a prompt with its output, are cut off, as an
    engine's context does. With `mean_serve_seconds`, requests are served in
    proportion to their output, and that long in the mean of what was kept. Of more
    than `MOST_KEPT` rows a fair sample is kept, drawn from `rng`.

    Raises:
        BrokenTrace: a file can't be read, or a row breaks a rule or has no lengths.
        InvalidWorkload: no row has an output.
    """
    prompts = np.zeros(MOST_KEPT, np.int64)
    outputs = np.zeros(MOST_KEPT, np.int64)
    n_rows = 0
    for prompt, output in _lengths(files):
        if not output:
            continue
        place = n_rows if n_rows < MOST_KEPT else int(rng.integers(n_rows + 1))
        n_rows += 1
        if place < MOST_KEPT:
            prompts[place], outputs[place] = prompt, output
    if not n_rows:
        raise InvalidWorkload(", ".join(map(str, files)), "no row has an output")
    prompts, outputs = prompts[:n_rows], outputs[:n_rows]
    if most_tokens is not None:
        prompts = np.minimum(prompts, most_tokens - 1)
        outputs = np.minimum(outputs, most_tokens - prompts)
    return TracedLengths(
        prompt_tokens=prompts,
        output_tokens=outputs,
        seconds_per_output_token=(
            None if mean_serve_seconds is None else mean_serve_seconds / float(outputs.mean())
        ),
    )


def _lengths(files: Sequence[Path]) -> Iterator[tuple[int, int]]:
    """Yield the tokens of prompts and outputs."""
    for path in files:
        with TraceFile(path) as file:
            found = detect(file)
            for number, record in enumerate(found.read(file), 1):
                yield _tokens(record, path, number)


def _tokens(record: Record, path: Path, number: int) -> tuple[int, int]:
    if isinstance(record, TracedRequest):
        return record.prompt_tokens, record.output_tokens
    if isinstance(record, Lengths):
        return (
            -(-record.prompt_characters // CHARACTERS_PER_TOKEN),
            -(-record.answer_characters // CHARACTERS_PER_TOKEN),
        )
    raise BrokenTrace(path, "it has no lengths of prompts and outputs", row=number)
