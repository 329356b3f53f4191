"""The section `workload`: which requests come when, and how long they are."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from pilotlight.scheduler.simulation.scenarios.section import (
    Amount,
    Burstiness,
    Count,
    Number,
    Positive,
    Section,
)
from pilotlight.scheduler.simulation.workload import Bursts, Distribution

Patterns: TypeAlias = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
"""Files, or patterns of them; below the folder of traces, unless they are absolute."""


class Popularity(Section, frozen=True, kw_only=True):
    """How much of all requests each model gets."""

    zipf_exponent: Amount = 0.0
    """Shares fall with rank ** -exponent, the first model being the most popular; 0 = equal."""
    weights: tuple[Amount, ...] = ()
    """One for each model, instead."""


class GammaArrivals(Section, frozen=True, kw_only=True, tag_field="kind", tag="gamma"):
    """A steady rate, and for each model gaps from a Gamma distribution."""

    requests_per_second: Positive
    """Of all models together."""
    cv: Burstiness = 1.0
    """Standard deviation of the gaps by their mean; 1 = a Poisson process."""
    popularity: Popularity = Popularity()
    exact: bool = False
    """Scale time until the rate is met exactly; else it is met in expectation."""


class AzureCalls(Section, frozen=True, kw_only=True, tag_field="kind", tag="azure"):
    """Calls of functions as Azure counted them in 2019."""

    files: Patterns
    """Of one day each, in order."""
    first_minute: Count = 0
    minutes: Number


class MadeUpCalls(Section, frozen=True, kw_only=True, tag_field="kind", tag="made_up"):
    """Calls of functions that are drawn: few functions have most of them."""

    functions: Number
    zipf_exponent: Amount
    """A function's mean rate falls with rank ** -exponent."""
    calls_per_minute: Positive
    """Of all functions; decides which of them are called at all."""
    minutes: Number
    cv: Annotated[float, msgspec.Meta(ge=0.0, le=100.0)] = 0.0
    """Of a function's rate from one minute to the next, Gamma distributed; 0 = steady."""


class FunctionArrivals(Section, frozen=True, kw_only=True, tag_field="kind", tag="functions"):
    """The paper's recipe: functions in stripes over the models, Gamma gaps in each interval."""

    requests_per_second: Positive
    """The counts are scaled to this rate of all models together."""
    calls: AzureCalls | MadeUpCalls
    interval_minutes: Number = 1
    """Minutes that are summed up to one rate."""
    cv: Burstiness = 8.0
    """Of the gaps within an interval; 1 = a Poisson process."""
    bursts: Bursts = "model"
    """Whether each model has a process of its own, or the cluster has one."""
    exact: bool = False
    """Scale time until the rate is met exactly; else it is met in expectation."""


class ClientArrivals(Section, frozen=True, kw_only=True, tag_field="kind", tag="clients"):
    """ServeGen's clients, each with a model of its own."""

    files: Patterns = ("servegen_m_small/chunk-*-trace.csv",)
    requests_per_second: Positive
    """Of all clients, in the mean of the span."""
    from_seconds: Amount = 0.0
    """Where in the trace the span begins."""
    span_seconds: Positive
    """How much of the trace is taken."""
    speedup: Positive = 1.0
    """Seconds of the trace in one of the workload."""
    popularity: Popularity | None = None
    """Of each client's requests in the span; null = as it sent them."""


class ReplayArrivals(Section, frozen=True, kw_only=True, tag_field="kind", tag="replay"):
    """A trace of requests as it is."""

    file: str
    speedup: Positive = 1.0
    """Seconds of the trace in one of the workload."""
    from_seconds: Amount = 0.0
    popularity: Popularity = Popularity()
    """Of the models, where the trace names none."""


class TokenService(Section, frozen=True, kw_only=True, tag_field="kind", tag="tokens"):
    """All requests have as many tokens, which take what the model's serve times say."""

    prompt_tokens: Number = 1
    output_tokens: Number = 1


class DrawnService(Section, frozen=True, kw_only=True, tag_field="kind", tag="seconds"):
    """Requests take seconds from a distribution, first token to last."""

    mean_seconds: Positive
    distribution: Distribution = "fixed"
    cv: Burstiness = 1.0
    """Of the lognormal distribution."""
    prompt_tokens: Number = 1
    output_tokens: Number = 1
    tokens_per_second: Positive | None = None
    """What is emitted meanwhile, instead of `output_tokens`."""


class TracedService(Section, frozen=True, kw_only=True, tag_field="kind", tag="traced"):
    """Requests have the tokens of rows of traces, drawn at random."""

    files: Patterns
    mean_seconds: Positive | None = None
    """They take time in proportion to their output, so much in the mean; null = what the model's
    serve times say."""
    most_tokens: Annotated[int, msgspec.Meta(ge=2, le=1_000_000)] | None = None
    """Where a prompt with its output is cut off."""


class Part(Section, frozen=True, kw_only=True):
    """Requests of one kind."""

    name: str = "requests"
    models: tuple[str, ...] = ()
    """Groups of models that they are for, in the order of popularity; none = all."""
    arrivals: GammaArrivals | FunctionArrivals | ClientArrivals | ReplayArrivals
    service: TokenService | DrawnService | TracedService | None = None
    """null = as the trace says that is replayed."""


class Traffic(Section, frozen=True, kw_only=True):
    """Parts that are merged; it ends with its seconds or its requests, whichever are over first."""

    begins_at_seconds: Amount = 1.0
    """Time that nodes have to join, and what is wanted in DRAM to get there."""
    duration_seconds: Positive | None = None
    requests: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] | None = None
    parts: tuple[Part, ...]
