"""A plan in the making, for policies that place one start after the other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pilotlight.estimators import StartFinish, Timeline
from pilotlight.scheduler.core.plan import (
    AnyStep,
    CancelStart,
    EstimatedStart,
    Plan,
    Start,
    StepId,
    Stop,
)
from pilotlight.scheduler.core.snapshot import Bools, Floats, Ints, Snapshot
from pilotlight.scheduler.policies import scaling
from pilotlight.scheduler.policies.endings import Endings
from pilotlight.store_node.protocol import Tier


class Draft:
    """Steps so far, and the timeline with them on it.

    What every policy does alike is in it from the start: replicas past their
    keep-alive stop, starts that nobody waits for are cancelled, and requests that
    nothing can serve are refused.
    """

    def __init__(self, snapshot: Snapshot, timeline: Timeline) -> None:
        self.snapshot = snapshot
        self.timeline = timeline
        self._steps: list[AnyStep] = []
        self._endings = Endings(snapshot)
        self._stops: dict[int, list[StepId]] = {}
        """By node."""
        self._n_starts = 0
        self._most_devices: Ints | None = None
        """[N] that may come free; None before it was asked for."""
        self._without_room: set[int] = set()
        """Models that no node could take; further steps leave no more room."""
        for replica in self._endings.unwanted_starts():
            self._cancel(replica)
        for replica in self._endings.expired():
            self._stop(replica, "idle for longer than its keep-alive")
        refusals = list(scaling.hopeless_models(snapshot))
        self._hopeless = {refusal.model for refusal in refusals}
        self._steps += refusals

    def wanted_starts(self) -> Iterator[int]:
        """Yield the models to start a replica of, the most urgent first."""
        for model in scaling.wanted_starts(self.snapshot):
            is_hopeless = self.snapshot.model_ids[model] in self._hopeless
            if not is_hopeless and model not in self._without_room:
                yield model

    def first_token_seconds(self, model: int) -> Floats:
        """Return [N]: when a start added next would give its first token.

        Infinite where the node can't start it, or can't have the devices even if
        idle replicas give theirs.
        """
        able = self._able(model)
        seconds = self.timeline.first_token_seconds(model)
        seconds[~able] = np.inf
        for node in np.flatnonzero(able & ~np.isfinite(seconds)).tolist():
            seconds[node] = self._seconds_with_victims(model, node)
        return seconds

    def soonest(self, model: int) -> int | None:
        """Return where a start added next would give its first token first; None = nowhere.

        That is the first minimum of `first_token_seconds`, found without working out
        what only could be later.
        """
        able = self._able(model)
        if not able.any():
            return None
        seconds = self.timeline.first_token_seconds(model)
        seconds[~able] = np.inf
        best = seconds.min()
        full = np.flatnonzero(able & ~np.isfinite(seconds))
        if full.size:
            least = self.timeline.least_first_token_seconds(model)[full]
            for row in np.argsort(least, kind="stable").tolist():
                if least[row] > best:
                    break
                node = int(full[row])
                seconds[node] = self._seconds_with_victims(model, node)
                best = min(best, seconds[node])
        return int(seconds.argmin()) if np.isfinite(best) else None

    def start(self, model: int, node: int) -> StartFinish:
        """Add a start, and the stops of idle replicas whose devices it needs."""
        snapshot = self.snapshot
        for victim in self._victims(model, node) or ():
            self._stop(victim, f"idle, and {snapshot.model_ids[model]} needs its devices")
        is_free_now = snapshot.model_devices[model] <= self.timeline.devices_free_now(node)
        after = () if is_free_now else tuple(self._stops.get(node, ()))
        finish = self.timeline.add_start(model, node)
        self._n_starts += 1
        self._steps.append(
            Start(
                id=StepId(f"start-{self._n_starts}"),
                reads=(snapshot.read_model(model), snapshot.read_node(node)),
                after=after,
                model=snapshot.model_ids[model],
                node=snapshot.node_ids[node],
                tier=snapshot.tier(model, node) or Tier.SSD,
                estimated=_estimated(finish),
                reason=f"first token in {finish.first_token_seconds:.3f} s",
            )
        )
        return finish

    def finish(self) -> Plan:
        """Return the plan."""
        return Plan(steps=tuple(self._steps))

    def _stop(self, replica: int, reason: str) -> None:
        snapshot = self.snapshot
        stop = Stop(
            id=StepId(f"stop-{snapshot.replica_ids[replica]}"),
            reads=(snapshot.read_replica(replica),),
            replica=snapshot.replica_ids[replica],
            reason=reason,
        )
        self._steps.append(stop)
        self._endings.end(replica)
        self._stops.setdefault(int(snapshot.replica_node[replica]), []).append(stop.id)
        self.timeline.add_stop(replica)

    def _cancel(self, replica: int) -> None:
        snapshot = self.snapshot
        self._endings.end(replica)
        self._steps.append(
            CancelStart(
                id=StepId(f"cancel-{snapshot.replica_ids[replica]}"),
                reads=(snapshot.read_replica(replica),),
                replica=snapshot.replica_ids[replica],
                reason="nobody waits for it any more",
            )
        )

    def _able(self, model: int) -> Bools:
        """Return [N]: the nodes that can start a model; none where none can have the devices."""
        able = self.snapshot.can_start(model)
        if self._most_devices is None:
            self._most_devices = self.snapshot.node_devices_free + self._endings.most_devices()
        # Starts of the plan take of these, and its stops free none that are not among them.
        perhaps = able & (self._most_devices >= self.snapshot.model_devices[model])
        if not any(self._has_room(model, node) for node in np.flatnonzero(perhaps).tolist()):
            self._without_room.add(model)
            return np.zeros_like(able)
        return able

    def _has_room(self, model: int, node: int) -> bool:
        """Return whether a node has a model's devices, or can free them."""
        return self._victims(model, node) is not None

    def _seconds_with_victims(self, model: int, node: int) -> float:
        victims = self._victims(model, node)
        if not victims:
            return float("inf")
        return self.timeline.start_after_stops(model, node, victims).first_token_seconds

    def _victims(self, model: int, node: int) -> list[int] | None:
        short = int(self.snapshot.model_devices[model]) - self.timeline.devices_free(node)
        victims: list[int] = []
        if short <= 0:
            return victims
        for replica in self._endings.reclaimable(node, for_model=model):
            victims.append(replica)
            short -= int(self.snapshot.replica_devices[replica])
            if short <= 0:
                return victims
        return None


def _estimated(finish: StartFinish) -> EstimatedStart:
    return EstimatedStart(
        queue_seconds=finish.queue_seconds,
        transfer_seconds=finish.transfer_seconds,
        worker_seconds=finish.worker_seconds,
        bind_seconds=finish.bind_seconds,
        prefill_seconds=finish.prefill_seconds,
    )
