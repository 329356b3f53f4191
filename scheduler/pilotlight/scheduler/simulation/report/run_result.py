"""What one run came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from pilotlight.scheduler.core.actions import StartFinished
from pilotlight.scheduler.simulation.ledger import Ending, Ledger
from pilotlight.scheduler.simulation.network import VirtualChannel
from pilotlight.scheduler.simulation.simulation import Simulation

PERCENTILES = (50.0, 90.0, 95.0, 99.0)
CURVE = tuple(np.linspace(0.0, 100.0, 201).tolist())
"""The percentiles that a curve is drawn through."""
MOST_SPANS = 2_000
"""Of a timeline: more than that nobody tells apart."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity over all requests of a run, in seconds."""

    count: int
    mean: float
    percentiles: Mapping[str, float]
    """By "p50" and so on; who never got that far counts as infinitely late."""
    curve: tuple[float, ...]
    """At the percentiles of `CURVE`; infinite from where requests never got that far."""


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """One replica on a timeline, in seconds since the run's beginning."""

    node: str
    model: str
    tier: str
    began_at: float
    ready_at: float
    """Or when its start failed."""
    ended_at: float
    """When its devices were free again, or the run was over."""
    error: str = ""


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """One policy on one seed of a scenario."""

    scenario: str
    policy: str
    seed: int
    requests: int
    served: int
    timed_out: int
    refused: int
    unfinished: int
    """Whose end the run did not see."""
    simulated_seconds: float
    start: Spread
    """From arrival to a place at a replica."""
    first_token: Spread
    pause: Spread
    """Of those that lost their place after their first token: seconds without one."""
    warm_requests: int
    """That found a place at once."""
    starts: Mapping[str, int]
    """Replicas that became READY, by the tier their weights came from."""
    failed_starts: int
    start_error_p50: float
    """Estimated less real seconds until READY, of starts: the median distance from 0."""
    stops: int
    cancelled_starts: int
    evictions: int
    migrations: int
    preemptions: int
    channel_bytes: Mapping[str, float]
    """Carried, by channel."""
    device_seconds: float
    """Devices times the seconds that replicas held them, loading included."""
    loading_device_seconds: float
    spans: tuple[Span, ...]


def result_of(
    simulation: Simulation,
    channels: Iterable[VirtualChannel],
    *,
    scenario: str,
    policy: str,
    seed: int,
) -> RunResult:
    """Return what a run that is over came to."""
    ledger, tally = simulation.ledger, simulation.tally
    endings = Counter(Ending(each) for each in ledger.endings().tolist())
    finished = list(tally.starts.values())
    succeeded = [each for each in finished if not each.error and each.outcome is not None]
    placed_late = ledger.start_seconds()
    # Times are whole microseconds: the sum of two may be one more than what is added.
    handover = simulation.delays.handover_seconds + 1.5e-6
    device_seconds, loading_device_seconds = tally.device_seconds(simulation.heap.now)
    return RunResult(
        scenario=scenario,
        policy=policy,
        seed=seed,
        requests=len(ledger),
        served=endings[Ending.SERVED],
        timed_out=endings[Ending.TIMED_OUT],
        refused=endings[Ending.REFUSED],
        unfinished=endings[Ending.OPEN],
        simulated_seconds=simulation.heap.now,
        start=_spread(placed_late),
        first_token=_spread(ledger.first_token_seconds()),
        pause=_spread(_pauses(ledger)),
        warm_requests=int(np.count_nonzero(placed_late <= handover)),
        starts=dict(
            sorted(
                Counter(
                    str(each.outcome.tier) for each in succeeded if each.outcome is not None
                ).items()
            )
        ),
        failed_starts=len(finished) - len(succeeded),
        start_error_p50=_median_error(succeeded),
        stops=tally.published["replica_stopped"],
        cancelled_starts=tally.published["start_withdrawn"],
        evictions=tally.published["evicted"],
        migrations=tally.published["migrated"],
        preemptions=tally.published["preempted"],
        channel_bytes={each.name: each.carried_bytes for each in channels},
        device_seconds=device_seconds,
        loading_device_seconds=loading_device_seconds,
        spans=tuple(_spans(simulation)),
    )


def _pauses(ledger: Ledger) -> npt.NDArray[np.float64]:
    paused = ledger.paused_seconds()
    return paused[paused > 0.0]


def _spread(seconds: npt.NDArray[np.float64]) -> Spread:
    if not len(seconds):
        return Spread(count=0, mean=0.0, percentiles={}, curve=())
    late = np.sort(np.where(np.isnan(seconds), np.inf, seconds))
    known = late[np.isfinite(late)]

    def at(percentile: float) -> float:
        # The smallest value that so many do not exceed: always one that was seen.
        rank = int(np.ceil(percentile / 100.0 * len(late))) - 1
        return float(late[max(rank, 0)])

    return Spread(
        count=len(late),
        mean=float(known.mean()) if len(known) else float("inf"),
        percentiles={f"p{percentile:g}": at(percentile) for percentile in PERCENTILES},
        curve=tuple(at(percentile) for percentile in CURVE),
    )


def _median_error(starts: list[StartFinished]) -> float:
    errors = [
        abs(each.estimated.ready_seconds - each.ready_seconds)
        for each in starts
        if each.estimated is not None
    ]
    return float(np.median(errors)) if errors else 0.0


def _spans(simulation: Simulation) -> list[Span]:
    tally = simulation.tally
    found: list[Span] = []
    for replica, start in tally.starts.items():
        if len(found) == MOST_SPANS:
            break
        ready_at = tally.started_at[replica]
        found.append(
            Span(
                node=start.node,
                model=start.model,
                tier=str(start.outcome.tier) if start.outcome else "",
                began_at=ready_at - start.ready_seconds,
                ready_at=ready_at,
                ended_at=tally.ended_at.get(replica, simulation.heap.now),
                error=start.error,
            )
        )
    return found
