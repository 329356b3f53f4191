"""Where requests can go: the READY replicas of each model, and how full they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pilotlight.scheduler.core.actions import RouteAdded
from pilotlight.store_node.protocol import ModelId, ReplicaId


@dataclass(slots=True)
class Route:
    """One replica that takes requests."""

    update: RouteAdded
    in_flight: int = 0
    """Requests of this gateway; other gateways may have some there too."""
    is_leaving: bool = False
    """It takes no new requests; those that are in flight may end."""
    suspended_until: float = 0.0
    """It has just refused a request, or could not be reached; monotonic seconds."""
    has_served: bool = False

    @property
    def load(self) -> float:
        """Return how full it is, from 0 to 1."""
        return self.in_flight / self.update.concurrency


class RouteTable:
    """Routes by model. What it knows is a hint: a node may still refuse."""

    def __init__(self) -> None:
        self._by_replica: dict[ReplicaId, Route] = {}
        """Those that are leaving too, until nothing is in flight there."""
        self._by_model: dict[ModelId, dict[ReplicaId, Route]] = {}

    def add(self, update: RouteAdded) -> None:
        """Let requests go to a replica; what is in flight there stays counted."""
        route = self._by_replica.setdefault(update.replica, Route(update))
        route.update = update
        route.suspended_until = 0.0
        route.is_leaving = False
        self._by_model.setdefault(update.model, {})[update.replica] = route

    def remove(self, replica: ReplicaId) -> None:
        """Let no new requests go to a replica."""
        route = self._by_replica.get(replica)
        if route is None or route.is_leaving:
            return
        route.is_leaving = True
        of_model = self._by_model[route.update.model]
        del of_model[replica]
        if not of_model:
            del self._by_model[route.update.model]
        self._forget_if_empty(route)

    def choose(self, model: ModelId, now: float) -> Route | None:
        """Return the least loaded route that has room; None where none has."""
        routes = self._by_model.get(model, {}).values()
        free = [
            route
            for route in routes
            if route.in_flight < route.update.concurrency and route.suspended_until <= now
        ]
        return min(free, key=lambda route: route.load, default=None)

    def enter(self, route: Route) -> None:
        """Count a request that goes there."""
        route.in_flight += 1

    def leave(self, route: Route) -> None:
        """Count one less."""
        route.in_flight -= 1
        self._forget_if_empty(route)

    def _forget_if_empty(self, route: Route) -> None:
        if route.is_leaving and not route.in_flight:
            self._by_replica.pop(route.update.replica, None)

    def __iter__(self) -> Iterator[Route]:
        return iter(self._by_replica.values())
