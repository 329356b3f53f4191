"""Requests that wait for a place, in one line per model."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pilotlight.scheduler.errors import DeadlineExceeded, QueueFull
from pilotlight.scheduler.gateway.backend import Inference
from pilotlight.scheduler.gateway.routing.routes import Route
from pilotlight.scheduler.gateway.routing.token_log import TokenLog
from pilotlight.store_node.protocol import ModelId


@dataclass(slots=True, eq=False)
class PendingRequest:
    """A request until its end, and what became of it so far."""

    inference: Inference
    queue_limit: int
    arrived_at: float
    """Monotonic seconds, as is `deadline`."""
    deadline: float
    log: TokenLog = field(default_factory=TokenLog)
    losses: int = 0
    workers_killed: int = 0
    has_waited: bool = False
    place: asyncio.Future[Route] | None = None
    """Where it will run; set while it stands in line."""
    state: str = "waiting for a replica"

    @property
    def model(self) -> ModelId:
        """Return the model that it asks for."""
        return self.inference.model

    def too_late(self) -> DeadlineExceeded:
        """Return the error that says where it was when its deadline passed."""
        return DeadlineExceeded(
            self.inference.request_id,
            deadline_seconds=self.inference.deadline_seconds,
            state=self.state,
        )


Report = Callable[[ModelId, int, float | None], None]
"""Model, requests that wait, arrival of the oldest."""


class WaitingLines:
    """First come, first served; one that lost its place goes to the head.

    Every change is reported, those of one turn of the event loop once.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._lines: dict[ModelId, deque[PendingRequest]] = {}
        self._changed: set[ModelId] = set()
        self._wait_seconds: dict[ModelId, float] = {}

    def __iter__(self) -> Iterator[ModelId]:
        return iter(list(self._lines))

    def is_empty(self, model: ModelId) -> bool:
        """Return whether nobody waits for a model."""
        return not self._lines.get(model)

    def length(self, model: ModelId) -> int:
        """Return how many requests wait for a model."""
        return len(self._lines.get(model, ()))

    def join(self, request: PendingRequest) -> asyncio.Future[Route]:
        """Put a request in line; return its place to be.

        Raises:
            QueueFull: as many wait as may, and it is new.
        """
        line = self._lines.setdefault(request.model, deque())
        is_new = not request.has_waited and request.log.attempt == 0
        if is_new and len(line) >= request.queue_limit:
            raise QueueFull(
                request.model,
                waiting=len(line),
                retry_after_seconds=max(self._wait_seconds.get(request.model, 1.0), 1.0),
            )
        place: asyncio.Future[Route] = asyncio.get_running_loop().create_future()
        request.place = place
        request.has_waited = True
        if is_new:
            line.append(request)
        else:
            line.appendleft(request)
        self.changed(request.model)
        return place

    def leave(self, request: PendingRequest) -> Route | None:
        """Take a request out of line; return the place that it was given meanwhile."""
        line = self._lines.get(request.model, deque())
        if request in line:
            line.remove(request)
            self.changed(request.model)
        place = request.place
        if place is None or not place.done() or place.cancelled() or place.exception():
            return None
        return place.result()

    def give(self, model: ModelId, route: Route) -> None:
        """Let the first in line have a place."""
        request = self._lines[model].popleft()
        assert request.place is not None, "who stands in line waits for a place"
        request.place.set_result(route)
        self.changed(model)

    def refuse(self, model: ModelId, error: Exception) -> None:
        """Fail all that wait for a model."""
        for request in self._lines.pop(model, ()):
            if request.place is not None and not request.place.done():
                request.place.set_exception(error)
        self.changed(model)

    def note_wait(self, model: ModelId, seconds: float) -> None:
        """Remember how long waiting takes, for who is told to come back later."""
        known = self._wait_seconds.get(model, seconds)
        self._wait_seconds[model] = 0.7 * known + 0.3 * seconds

    def changed(self, model: ModelId) -> None:
        """Report a model's line soon."""
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._report_changes)
        self._changed.add(model)

    def _report_changes(self) -> None:
        changed, self._changed = sorted(self._changed), set()
        for model in changed:
            line = self._lines.get(model)
            if not line:
                self._lines.pop(model, None)
            oldest = min((request.arrived_at for request in line), default=None) if line else None
            self._report(model, len(line) if line else 0, oldest)
