"""All requests of a run, in the order of time."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, repeat

from pilotlight.scheduler.simulation.arrivals import Arrival
from pilotlight.scheduler.simulation.workload.errors import InvalidWorkload
from pilotlight.scheduler.simulation.workload.replay import Replay
from pilotlight.scheduler.simulation.workload.seeds import Draws, Seeds
from pilotlight.scheduler.simulation.workload.service import Drawn, Service
from pilotlight.scheduler.simulation.workload.source import Floats, Source, Timed
from pilotlight.store_node.protocol import ModelId

_AT_ONCE = 4096
"""Requests whose lengths are drawn together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Requests of one kind, for some of the models."""

    name: str
    models: Sequence[ModelId]
    """By row, as the source counts them."""
    source: Source
    service: Service | None = None
    """None = as a trace says, which the source then is."""
    weight: float = 1.0
    """Of its requests among those of all parts, for `Workload.shares`."""

    def __post_init__(self) -> None:
        if self.service is None and not isinstance(self.source, Replay):
            raise InvalidWorkload(
                self.name, "nothing says how long its requests are", hint="give it a service"
            )

    def arrivals(self, seeds: Seeds, *, begins_at: float, end: float) -> Iterator[Arrival]:
        """Yield its requests before `end`, both in seconds; the source's time begins at
        `begins_at`.

        Draws SERVICE, and what the source draws.
        """
        if self.service is None:
            assert isinstance(self.source, Replay), "it was looked at when this was made"
            for at, row, prompt, output in self.source.traced(seeds, end - begins_at):
                yield Arrival(
                    at=begins_at + at,
                    model=self.models[row],
                    prompt_tokens=prompt,
                    output_tokens=output,
                )
            return
        rng = seeds.generator(Draws.SERVICE)
        timed = self.source.timed(seeds, end - begins_at)
        while batch := list(islice(timed, _AT_ONCE)):
            yield from self._with_lengths(batch, self.service.draw(rng, len(batch)), begins_at)

    def _with_lengths(
        self, batch: Sequence[Timed], drawn: Drawn, begins_at: float
    ) -> Iterator[Arrival]:
        seconds: Iterator[float | None] = (
            repeat(None) if drawn.serve_seconds is None else iter(drawn.serve_seconds.tolist())
        )
        prompts, outputs = drawn.prompt_tokens.tolist(), drawn.output_tokens.tolist()
        for (at, row), prompt, output, serve in zip(batch, prompts, outputs, seconds, strict=False):
            yield Arrival(
                at=begins_at + at,
                model=self.models[row],
                prompt_tokens=prompt,
                output_tokens=output,
                serve_seconds=serve,
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Parts that are merged; it ends with its seconds or its requests, whichever are over first."""

    parts: Sequence[Part]
    begins_at: float = 0.0
    """Seconds of the simulation before its own time begins."""
    duration_seconds: float = math.inf
    n_requests: int | None = None

    def __post_init__(self) -> None:
        if not self.parts:
            raise InvalidWorkload("parts", "there are none, so there are no requests")

    def arrivals(self, seed: int) -> Iterator[Arrival]:
        """Yield the requests in the order of time, equal ones for equal seeds.

        Raises:
            InvalidWorkload: there is none.
            BrokenTrace: a file that is read meanwhile breaks a rule.
        """
        end = self.begins_at + self.duration_seconds
        streams = [
            part.arrivals(Seeds(seed, number), begins_at=self.begins_at, end=end)
            for number, part in enumerate(self.parts)
        ]
        every = streams[0] if len(streams) == 1 else heapq.merge(*streams, key=_time_of)
        first = None
        for arrival in islice(every, self.n_requests):
            first = first or arrival
            yield arrival
        if first is None:
            names = ", ".join(part.name for part in self.parts)
            raise InvalidWorkload(
                names, "there are no requests", hint="let it last longer, or raise its rate"
            )

    def shares(self, seed: int) -> dict[ModelId, float]:
        """Return how much of all requests is for each model, of sum 1."""
        found: dict[ModelId, float] = {}
        total = math.fsum(part.weight for part in self.parts)
        for number, part in enumerate(self.parts):
            shares: Floats = part.source.shares(Seeds(seed, number)) * (part.weight / total)
            for model, share in zip(part.models, shares.tolist(), strict=True):
                found[model] = found.get(model, 0.0) + share
        return found


def _time_of(arrival: Arrival) -> float:
    return arrival.at
