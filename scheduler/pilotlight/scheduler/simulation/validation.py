"""Whether a simulation does what a real cluster did with the same requests.

Theory of operation. The same requests were sent to a cluster several times, and
each time what clients saw and what the controller recorded was kept. No two of
these runs are alike, so that is the measure: the simulation's error, in spreads
between them. Starts are compared model by model, in their order: from which
tier did the weights of each come?
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import msgspec
import numpy as np

from pilotlight.estimators import StartEstimator
from pilotlight.process.plugins import load_plugin
from pilotlight.scheduler.core.actions import StartFinished
from pilotlight.scheduler.errors import BrokenTrace, SchedulerError
from pilotlight.scheduler.simulation.arrivals import Arrival
from pilotlight.scheduler.simulation.calibration import observe
from pilotlight.scheduler.simulation.runs import prepare
from pilotlight.scheduler.simulation.scenarios import Scenario
from pilotlight.store_node.protocol import ModelId

REQUESTS_FILE = "requests.jsonl"
RECORDING_FOLDER = "recording"

_PERCENTILES = {"median": 50.0, "p95": 95.0}


class NotComparable(SchedulerError, ValueError):
    """Runs that were recorded can't be compared with a simulation, or with each other."""


class ReplayedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request of a real run, as its client saw it; a line of `requests.jsonl`."""

    at: float
    """Monotonic seconds on the machine: the controller's recording counts so too."""
    due_at: float
    """Seconds since the run's beginning at which it should have been sent."""
    model: str
    prompt_tokens: int
    output_tokens: int
    first_token_seconds: float | None
    total_seconds: float
    error: str = ""


Tiers = Mapping[str, Sequence[str]]
"""By model: the tier of each of its starts, in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealRun:
    """What was kept of one run of a real cluster."""

    requests: Sequence[ReplayedRequest]
    tiers: Tiers

    @property
    def first_token_seconds(self) -> list[float]:
        """Return what each answered request waited for its first token."""
        found = (request.first_token_seconds for request in self.requests)
        return [seconds for seconds in found if seconds is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One percentile of first tokens, in seconds."""

    name: str
    real: tuple[float, ...]
    """Of each real run."""
    simulated: float
    """The mean over seeds."""

    @property
    def error_over_spread(self) -> float:
        """Return the distance to the mean of the real runs, by how far these lie apart."""
        spread = max(self.real) - min(self.real)
        error = abs(self.simulated - float(np.mean(self.real)))
        return error / spread if spread else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """How a simulation compares with several real runs of the same requests."""

    percentiles: tuple[Compared, ...]
    same_tier_share: float
    """Of starts, model by model in their order; a start that the other does not have differs."""
    same_tier_share_of_real: float
    """The same between each two real runs."""
    n_starts: tuple[int, ...]
    """Of each real run."""


def read_run(folder: Path) -> RealRun:
    """Return what `pilotlight demo --replay` kept in a folder.

    Raises:
        BrokenTrace: the requests can't be read, or one of them is none.
        UnusableRecording: the recording is none.
    """
    file = folder / REQUESTS_FILE
    seen = observe((folder / RECORDING_FOLDER).glob("*.jsonl"), StartEstimator())
    return RealRun(requests=list(_requests(file)), tiers=_tiers(seen.starts))


def validate(
    scenario: Scenario, runs: Sequence[RealRun], *, policy: str, seeds: Sequence[int]
) -> Validation:
    """Simulate the requests of real runs, once for each seed, and compare.

    Raises:
        NotComparable: fewer than two runs, or not all had the same requests.
        SchedulerError: the scenario can't be built.
    """
    _check_alike(runs)
    simulated = [_simulate(scenario, runs[0], policy, seed) for seed in seeds]
    shares = [_same_share(real.tiers, tiers) for real in runs for _, tiers in simulated]
    pairs = [(one, other) for row, one in enumerate(runs) for other in runs[row + 1 :]]
    return Validation(
        percentiles=tuple(
            Compared(
                name=name,
                real=tuple(
                    float(np.percentile(run.first_token_seconds, percentile)) for run in runs
                ),
                simulated=float(
                    np.mean([np.percentile(seconds, percentile) for seconds, _ in simulated])
                ),
            )
            for name, percentile in _PERCENTILES.items()
        ),
        same_tier_share=float(np.mean(shares)),
        same_tier_share_of_real=float(
            np.mean([_same_share(one.tiers, other.tiers) for one, other in pairs])
        ),
        n_starts=tuple(sum(map(len, run.tiers.values())) for run in runs),
    )


def _requests(file: Path) -> Iterator[ReplayedRequest]:
    decoder = msgspec.json.Decoder(ReplayedRequest)
    try:
        with file.open("rb") as lines:
            for row, line in enumerate(lines, 1):
                try:
                    yield decoder.decode(line)
                except msgspec.DecodeError as exc:
                    raise BrokenTrace(file, str(exc), row=row) from exc
    except OSError as exc:
        raise BrokenTrace(file, exc.strerror or str(exc)) from exc


def _check_alike(runs: Sequence[RealRun]) -> None:
    if len(runs) < 2:
        raise NotComparable("two real runs at least are needed, to see how far they lie apart")
    asked = [
        sorted((r.due_at, r.model, r.prompt_tokens, r.output_tokens) for r in run.requests)
        for run in runs
    ]
    for number, other in enumerate(asked[1:], 2):
        if other != asked[0]:
            raise NotComparable(f"run {number} had other requests than run 1")
    for number, run in enumerate(runs, 1):
        if failed := next((r for r in run.requests if r.error), None):
            raise NotComparable(f"a request of run {number} failed: {failed.error}")
        if not run.requests:
            raise NotComparable(f"run {number} had no requests")


def _simulate(
    scenario: Scenario, run: RealRun, policy: str, seed: int
) -> tuple[list[float], Tiers]:
    built = scenario.build(seed)
    known = {model.name for model in built.models}
    if unknown := {r.model for r in run.requests} - known:
        raise NotComparable(f"the scenario has no model {min(unknown)}")
    simulation = prepare(built, load_plugin("pilotlight.policies", policy)())
    arrivals = [
        Arrival(
            at=request.due_at,
            model=ModelId(request.model),
            prompt_tokens=request.prompt_tokens,
            output_tokens=request.output_tokens,
        )
        for request in sorted(run.requests, key=lambda each: each.due_at)
    ]
    simulation.feed(arrivals)
    simulation.run()
    seconds = simulation.ledger.first_token_seconds()
    return seconds[np.isfinite(seconds)].tolist(), _tiers(simulation.tally.starts.values())


def _tiers(starts: Iterable[StartFinished]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for start in starts:
        if start.outcome is not None:
            found.setdefault(start.model, []).append(str(start.outcome.tier))
    return found


def _same_share(one: Tiers, other: Tiers) -> float:
    pairs = [
        pair
        for model in sorted(one.keys() | other.keys())
        for pair in zip_longest(one.get(model, ()), other.get(model, ()))
    ]
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else 1.0
