"""Requests that wait for a place, in one line per model."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
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
    is_new: bool = True
    """Until it is given a place or stands in line; then it is not turned away any more."""
    has_waited: bool = False
    is_large: bool = False
    """Whether it was refused where smaller ones might have been taken."""
    place: asyncio.Future[Route] | None = None
    """Where it will run: set from when it asks until it takes it."""
    state: str = "waiting for a replica"

    @property
    def model(self) -> ModelId:
        """Return the model that it asks for."""
        return self.inference.model

    def too_late(self) -> DeadlineExceeded:
        """Return the error that says where it was when its deadline passed."""
        return DeadlineExceeded(
            self.inference.asked_as,
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

    def join(self, requests: Sequence[PendingRequest]) -> None:
        """Put requests of one model in line, all or none; each gets a place to be.

        Raises:
            QueueFull: with them more would wait than may, and they are new.
        """
        if not requests:
            return
        self._check_room(requests)
        line = self._lines.setdefault(requests[0].model, deque())
        for request in requests:
            if request.is_new:
                line.append(request)
            else:
                line.appendleft(request)
            request.is_new = False
            request.place = asyncio.get_running_loop().create_future()
            request.has_waited = True
            request.state = "waiting for a replica"
        self.changed(requests[0].model)

    def leave(self, request: PendingRequest) -> Route | None:
        """Take a request out of line; return the place that it was given and has not taken."""
        line = self._lines.get(request.model, deque())
        if request in line:
            line.remove(request)
            self.changed(request.model)
        place, request.place = request.place, None
        if place is None or not place.done() or place.cancelled() or place.exception():
            return None
        return place.result()

    def give(self, model: ModelId, route: Route) -> PendingRequest:
        """Let the first in line have a place; return that request."""
        request = self._lines[model].popleft()
        assert request.place is not None, "who stands in line waits for a place"
        request.place.set_result(route)
        self.changed(model)
        return request

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

    def _check_room(self, requests: Sequence[PendingRequest]) -> None:
        n_new = sum(request.is_new for request in requests)
        model, limit = requests[0].model, requests[0].queue_limit
        if n_new and self.length(model) + n_new > limit:
            raise QueueFull(
                model,
                waiting=self.length(model),
                wanted=n_new,
                retry_after_seconds=max(self._wait_seconds.get(model, 1.0), 1.0),
            )

    def _report_changes(self) -> None:
        changed, self._changed = sorted(self._changed), set()
        for model in changed:
            line = self._lines.get(model)
            if not line:
                self._lines.pop(model, None)
            oldest = min((request.arrived_at for request in line), default=None) if line else None
            self._report(model, len(line) if line else 0, oldest)
