"""Where requests can go: the READY replicas of each model, and how full they are."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

from pilotlight.scheduler.core.actions import RouteAdded
from pilotlight.store_node.protocol import ModelId, ReplicaId


@dataclass(slots=True)
class Route:
    """One replica that takes requests."""

    update: RouteAdded
    number: int = 0
    """Of those that came before it."""
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
        self._by_model: dict[ModelId, _OpenRoutes] = {}
        self._next_number = 0

    def add(self, update: RouteAdded) -> None:
        """Let requests go to a replica; what is in flight there stays counted."""
        route = self._by_replica.get(update.replica)
        if route is None:
            route = self._by_replica[update.replica] = Route(update, number=self._next_number)
            self._next_number += 1
        else:
            self._close(route)
        route.update = update
        route.suspended_until = 0.0
        route.is_leaving = False
        self._by_model.setdefault(update.model, _OpenRoutes()).put(route)

    def remove(self, replica: ReplicaId) -> None:
        """Let no new requests go to a replica."""
        route = self._by_replica.get(replica)
        if route is None or route.is_leaving:
            return
        self._close(route)
        route.is_leaving = True
        self._forget_if_empty(route)

    def choose(self, model: ModelId, now: float) -> Route | None:
        """Return the least loaded route that has room, the first of several; None = none has."""
        routes = self._by_model.get(model)
        return routes.choose(now) if routes else None

    def enter(self, route: Route) -> None:
        """Count a request that goes there."""
        self._count(route, 1)

    def leave(self, route: Route) -> None:
        """Count one less."""
        self._count(route, -1)
        self._forget_if_empty(route)

    def _count(self, route: Route, change: int) -> None:
        if route.is_leaving:
            route.in_flight += change
            return
        routes = self._by_model[route.update.model]
        routes.take(route)
        route.in_flight += change
        routes.put(route)

    def _close(self, route: Route) -> None:
        routes = self._by_model.get(route.update.model)
        if routes is not None and not route.is_leaving:
            routes.take(route)
            if not routes:
                del self._by_model[route.update.model]

    def _forget_if_empty(self, route: Route) -> None:
        if route.is_leaving and not route.in_flight:
            self._by_replica.pop(route.update.replica, None)

    def __iter__(self) -> Iterator[Route]:
        return iter(self._by_replica.values())


class _OpenRoutes:
    """One model's routes that take new requests, by how full they are."""

    def __init__(self) -> None:
        self._by_load: dict[float, _Alike] = {}

    def __bool__(self) -> bool:
        return bool(self._by_load)

    def put(self, route: Route) -> None:
        self._by_load.setdefault(route.load, _Alike()).put(route)

    def take(self, route: Route) -> None:
        alike = self._by_load[route.load]
        alike.take(route)
        if not alike.routes:
            del self._by_load[route.load]

    def choose(self, now: float) -> Route | None:
        for load in sorted(self._by_load):
            if load >= 1.0:
                break
            if (route := self._by_load[load].first(now)) is not None:
                return route
        return None


class _Alike:
    """Routes that are equally full; the first of a thousand is found without a look at each."""

    def __init__(self) -> None:
        self.routes: dict[int, Route] = {}
        """By number."""
        self._numbers: list[int] = []
        """A heap of them, and of some that have gone."""

    def put(self, route: Route) -> None:
        self.routes[route.number] = route
        heapq.heappush(self._numbers, route.number)

    def take(self, route: Route) -> None:
        del self.routes[route.number]

    def first(self, now: float) -> Route | None:
        while self._numbers[0] not in self.routes:
            heapq.heappop(self._numbers)
        first = self.routes[self._numbers[0]]
        if first.suspended_until <= now:
            return first
        # Few are suspended, and seldom.
        open_ones = (self.routes[n] for n in sorted(self.routes))
        return next((route for route in open_ones if route.suspended_until <= now), None)
