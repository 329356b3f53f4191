"""The workload that a scenario describes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pilotlight.scheduler.simulation.scenarios.errors import InvalidScenario
from pilotlight.scheduler.simulation.scenarios.models import ModelGroup
from pilotlight.scheduler.simulation.scenarios.names import model_names
from pilotlight.scheduler.simulation.scenarios.trace_folder import TraceFolder
from pilotlight.scheduler.simulation.scenarios.traffic import (
    AzureCalls,
    ClientArrivals,
    DrawnService,
    FunctionArrivals,
    GammaArrivals,
    MadeUpCalls,
    Popularity,
    ReplayArrivals,
    TokenService,
    TracedService,
    Traffic,
)
from pilotlight.scheduler.simulation.scenarios.traffic import (
    Part as PartSection,
)
from pilotlight.scheduler.simulation.workload import (
    ClientSource,
    DrawnSeconds,
    Draws,
    ExactSource,
    FixedTokens,
    FunctionSource,
    GammaSource,
    InvalidWorkload,
    Part,
    Replay,
    Seeds,
    Service,
    Source,
    Workload,
    draw_counts,
    read_counts,
    read_lengths,
    weighted_shares,
    zipf_shares,
)
from pilotlight.scheduler.simulation.workload.clients import check_clients
from pilotlight.scheduler.simulation.workload.counts import Counts
from pilotlight.scheduler.simulation.workload.source import Floats

_REPLAY_WEIGHT = 1.0
"""Requests per second of a trace that is replayed, beside other parts, as far as copies go."""


def workload(
    traffic: Traffic,
    groups: Sequence[ModelGroup],
    *,
    seed: int,
    traces: TraceFolder,
    source: str,
) -> Workload:
    """Return the workload of one seed.

    Raises:
        InvalidScenario: a trace is not there, or the numbers of one don't fit the models.
        BrokenTrace: a trace breaks a rule.
    """
    parts: list[Part] = []
    for row, section in enumerate(traffic.parts):
        key = f"workload.parts[{row}]"
        maker = _PartMaker(traffic, section, Seeds(seed, row), traces, key)
        try:
            parts.append(maker.part(groups_of(section, groups)))
        except InvalidWorkload as exc:
            raise InvalidScenario(
                source, exc.rule, key=f"{key}: {exc.place}", hint=exc.hint
            ) from exc
    duration = traffic.duration_seconds
    return Workload(
        parts=parts,
        begins_at=traffic.begins_at_seconds,
        duration_seconds=math.inf if duration is None else duration,
        n_requests=traffic.requests,
    )


def groups_of(part: PartSection, groups: Sequence[ModelGroup]) -> list[ModelGroup]:
    """Return the groups of models that a part is for; those that are unknown are left out."""
    if not part.models:
        return list(groups)
    by_name = {group.name: group for group in groups}
    return [by_name[name] for name in part.models if name in by_name]


def shares_of(popularity: Popularity, n_models: int) -> Floats:
    """Return [models] of sum 1.

    Raises:
        InvalidWorkload: there is another number of weights, or all are 0.
    """
    if popularity.weights:
        return weighted_shares(popularity.weights, n_models)
    return zipf_shares(n_models, popularity.zipf_exponent)


class _PartMaker:
    """Makes one part of a workload."""

    def __init__(
        self, traffic: Traffic, section: PartSection, seeds: Seeds, traces: TraceFolder, key: str
    ) -> None:
        self._traffic = traffic
        self._section = section
        self._seeds = seeds
        self._traces = traces
        self._key = key

    def part(self, groups: Sequence[ModelGroup]) -> Part:
        models, arrivals = model_names(groups), self._section.arrivals
        return Part(
            name=self._section.name,
            models=models,
            source=self._source(len(models)),
            service=self._service(),
            weight=(
                _REPLAY_WEIGHT
                if isinstance(arrivals, ReplayArrivals)
                else arrivals.requests_per_second
            ),
        )

    def _source(self, n_models: int) -> Source:
        arrivals = self._section.arrivals
        match arrivals:
            case GammaArrivals():
                gamma = GammaSource(
                    requests_per_second=arrivals.requests_per_second,
                    popularity=shares_of(arrivals.popularity, n_models),
                    cv=arrivals.cv,
                )
                return self._exact(gamma, arrivals)
            case FunctionArrivals():
                return self._exact(self._functions(arrivals, n_models), arrivals)
            case ClientArrivals():
                return self._clients(arrivals, n_models)
            case ReplayArrivals():
                (file,) = self._traces.find((arrivals.file,), key=self._at("file"))[:1]
                return Replay(
                    file=file,
                    popularity=shares_of(arrivals.popularity, n_models),
                    speedup=arrivals.speedup,
                    from_seconds=arrivals.from_seconds,
                )

    def _exact(self, source: Source, arrivals: GammaArrivals | FunctionArrivals) -> Source:
        if not arrivals.exact:
            return source
        return ExactSource(source=source, requests_per_second=arrivals.requests_per_second)

    def _functions(self, arrivals: FunctionArrivals, n_models: int) -> FunctionSource:
        calls = arrivals.calls
        read: Counts | None = None
        if isinstance(calls, AzureCalls):
            read = read_counts(
                self._traces.find(calls.files, key=self._at("calls.files")),
                n_models=n_models,
                first_minute=calls.first_minute,
                n_minutes=calls.minutes,
            )

        def counts(seeds: Seeds) -> Counts:
            if read is not None:
                return read
            assert isinstance(calls, MadeUpCalls), "the others are read"
            return draw_counts(
                seeds.generator(Draws.FUNCTIONS),
                n_models=n_models,
                n_functions=calls.functions,
                zipf_exponent=calls.zipf_exponent,
                calls_per_minute=calls.calls_per_minute,
                n_minutes=calls.minutes,
                cv=calls.cv,
            )

        return FunctionSource(
            counts=counts,
            requests_per_second=arrivals.requests_per_second,
            interval_minutes=arrivals.interval_minutes,
            cv=arrivals.cv,
            bursts=arrivals.bursts,
        )

    def _clients(self, arrivals: ClientArrivals, n_models: int) -> ClientSource:
        files = self._traces.find(arrivals.files, key=self._at("files"))
        check_clients(files, n_models)
        popularity = arrivals.popularity
        return ClientSource(
            files=files,
            requests_per_second=arrivals.requests_per_second,
            from_seconds=arrivals.from_seconds,
            span_seconds=arrivals.span_seconds,
            speedup=arrivals.speedup,
            popularity=None if popularity is None else shares_of(popularity, n_models),
        )

    def _service(self) -> Service | None:
        service = self._section.service
        match service:
            case None:
                return None
            case TokenService():
                return FixedTokens(
                    prompt_tokens=service.prompt_tokens, output_tokens=service.output_tokens
                )
            case DrawnService():
                return DrawnSeconds(
                    mean_seconds=service.mean_seconds,
                    distribution=service.distribution,
                    cv=service.cv,
                    prompt_tokens=service.prompt_tokens,
                    output_tokens=service.output_tokens,
                    tokens_per_second=service.tokens_per_second,
                )
            case TracedService():
                return read_lengths(
                    self._traces.find(service.files, key=f"{self._key}.service.files"),
                    self._seeds.generator(Draws.LENGTHS),
                    mean_serve_seconds=service.mean_seconds,
                    most_tokens=service.most_tokens,
                )

    def _at(self, name: str) -> str:
        return f"{self._key}.arrivals.{name}"
