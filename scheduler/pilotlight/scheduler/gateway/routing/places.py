"""Places at replicas: who has one, and who waits for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from pilotlight.scheduler.core.actions import RouteAdded
from pilotlight.scheduler.errors import QueueFull, ServerStopping
from pilotlight.scheduler.gateway.routing.deadlines import Deadline
from pilotlight.scheduler.gateway.routing.routes import Route, RouteTable
from pilotlight.scheduler.gateway.routing.waiting_lines import (
    PendingRequest,
    Report,
    WaitingLines,
)
from pilotlight.store_node.protocol import ModelId, ReplicaId

# As long as a node may take to say whether it has room for a request.
_LARGE_SECONDS = 0.1


class Places:
    """Gives requests places at replicas, first come, first served.

    A request asks for a place, takes it when it comes, and releases it; one that
    ends before it has taken its place leaves. Belongs to one event loop.
    """

    def __init__(self, report: Report, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._routes = RouteTable()
        self._lines = WaitingLines(report)
        self._is_closed = False

    # -- for requests

    def ask(self, requests: Sequence[PendingRequest]) -> None:
        """Give requests of one model places, those that are left a stand in line: all or none.

        Raises:
            ServerStopping: nobody gets a place any more.
            QueueFull: the line can't hold those that are left.
        """
        if self._is_closed:
            raise ServerStopping
        n_seated = self._seat(requests)
        try:
            self._lines.join(requests[n_seated:])
        except QueueFull:
            for request in requests[:n_seated]:
                self.leave(request)
            raise

    async def take(self, request: PendingRequest) -> Route:
        """Return the place that a request has asked for, once it is there.

        Raises:
            DeadlineExceeded: it does not come in time.
            SchedulerError: it will never come.
        """
        place = request.place
        assert place is not None, "it has asked for one"
        if not place.done():
            async with Deadline(request.deadline - self._clock(), request.too_late):
                await asyncio.shield(place)
        request.place = None
        return place.result()

    def leave(self, request: PendingRequest) -> None:
        """Give up what a request has asked for and not taken; harmless where that is nothing."""
        route = self._lines.leave(request)
        if route is not None:
            self.release(route)

    def release(self, route: Route) -> None:
        """Give back a place that was taken."""
        self._routes.leave(route)
        self._dispatch(route.update.model)

    def suspend(self, route: Route, seconds: float) -> None:
        """Give no place there for a while."""
        route.suspended_until = self._clock() + seconds
        wake = asyncio.get_running_loop().call_later
        wake(seconds * 1.01, self._dispatch, route.update.model)

    # -- for the controller

    def add(self, update: RouteAdded) -> None:
        """Take over a replica that takes requests."""
        self._routes.add(update)
        self._dispatch(update.model)

    def remove(self, replica: ReplicaId) -> None:
        """Give no place at a replica any more."""
        self._routes.remove(replica)

    def refuse(self, model: ModelId, error: Exception) -> None:
        """Fail all that wait for a model."""
        self._lines.refuse(model, error)

    def close(self) -> None:
        """Tell all that wait, and all that come, that the server stops."""
        self._is_closed = True
        for model in self._lines:
            self._lines.refuse(model, ServerStopping())

    def announce_all(self) -> None:
        """Report all that wait again."""
        for model in self._lines:
            self._lines.changed(model)

    def counts(self) -> dict[ModelId, tuple[int, int]]:
        """Return by model how many requests wait, and how many have a place."""
        found = {model: (self._lines.length(model), 0) for model in self._lines}
        for route in self._routes:
            waiting, running = found.get(route.update.model, (0, 0))
            found[route.update.model] = (waiting, running + route.in_flight)
        return found

    def _seat(self, requests: Sequence[PendingRequest]) -> int:
        """Give places to the first of some requests, unless others wait; return to how many."""
        if not self._lines.is_empty(requests[0].model):
            return 0
        for n_seated, request in enumerate(requests):
            route = self._routes.choose(request.model, self._clock())
            if route is None:
                return n_seated
            self._enter(request, route)
            request.is_new = False
            request.place = asyncio.get_running_loop().create_future()
            request.place.set_result(route)
        return len(requests)

    def _dispatch(self, model: ModelId) -> None:
        while not self._lines.is_empty(model):
            route = self._routes.choose(model, self._clock())
            if route is None:
                return
            request = self._lines.give(model, route)
            self._enter(request, route)
            self._lines.note_wait(model, self._clock() - request.arrived_at)

    def _enter(self, request: PendingRequest, route: Route) -> None:
        self._routes.enter(route)
        if request.is_large:
            # Smaller ones that came later would take what it waits for, again and again.
            self.suspend(route, _LARGE_SECONDS)
