"""The section `models`: what is deployed, and where its copies lie."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from pilotlight.scheduler.simulation.scenarios.section import (
    Amount,
    Count,
    Name,
    Number,
    Positive,
    Section,
    Size,
)


class Copies(Section, frozen=True, kw_only=True):
    """On which nodes' disks a model's checkpoint lies."""

    placed: Literal["everywhere", "round_robin", "by_popularity", "listed"] = "everywhere"
    """By popularity: in proportion to a model's share of all requests, at least one."""
    each: Positive = 1.0
    """Copies of a model, where they are placed round robin; by popularity, in the mean."""
    nodes: tuple[str, ...] = ()
    """The nodes, where they are listed."""
    in_dram: Count = 0
    """How many of its nodes have it in DRAM before the first request; round robin as well, the
    first one of every model before the second one of any, until memory is full."""


class Linear(Section, frozen=True, kw_only=True):
    """Serve times of the form `a * n + b`."""

    prefill_seconds_per_token: Amount = 0.0
    prefill_fixed_seconds: Amount = 0.1
    step_seconds_per_request: Amount = 0.0
    step_fixed_seconds: Positive = 0.025


class Profile(Section, frozen=True, kw_only=True):
    """Serve times as measured, from a table of the trace `aegaeon-profiles`."""

    model: str
    """As the table calls it."""
    device: str
    """Its kind, as A100."""
    devices: Number = 1
    """That shared the work."""
    file: str = "aegaeon/execution_profiles.csv"


class ModelGroup(Section, frozen=True, kw_only=True):
    """Models that are alike: NAME-1, NAME-2 and so on, or NAME where there is one."""

    name: Name
    count: Number = 1
    size_gb: Size
    """Of its checkpoint, 10^9 bytes each."""
    devices: Number = 1
    """For each replica."""
    concurrency: Count = 0
    """Requests that a replica takes at once, at most; 0 = what the engine allows."""
    min_replicas: Count = 0
    max_replicas: Number = 1
    keep_alive_seconds: Amount | Literal["load"] = "load"
    """How long an idle replica stays; load = as long as its load takes."""
    priority: Annotated[int, msgspec.Meta(ge=-1_000_000, le=1_000_000)] = 0
    copies: Copies = Copies()
    serve_times: Linear = Linear()
    profile: Profile | None = None
    """Takes the place of `serve_times`."""
