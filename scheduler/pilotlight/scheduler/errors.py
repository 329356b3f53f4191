"""The scheduler's errors; one table maps them to gRPC and HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

_MOST_QUOTED = 256


class SchedulerError(Exception):
    """Root of what the scheduler raises."""


class UnknownModel(SchedulerError, LookupError):
    """No model of that name is deployed."""

    def __init__(self, model: str, *, known: Sequence[str] = ()) -> None:
        hint = f"; deployed: {', '.join(sorted(known)[:10])}" if known else "; none is deployed"
        super().__init__(f"no model {quoted(model)} is deployed{hint}")
        self.model = model


class UnknownCheckpoint(SchedulerError, LookupError):
    """No node holds that checkpoint, or none of the copies can be used."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"no node can load {quoted(path)}: {reason}")
        self.path = path


class InvalidModel(SchedulerError, ValueError):
    """A deployment that makes no sense, with the field and the rule."""


class NoNodes(SchedulerError, RuntimeError):
    """An operation needs a node, and none is connected."""

    def __init__(self) -> None:
        super().__init__("no node is connected; start one with: pilotlight node")


class QueueFull(SchedulerError, RuntimeError):
    """As many requests wait for a model as may."""

    def __init__(
        self, model: str, *, waiting: int, retry_after_seconds: float, wanted: int = 1
    ) -> None:
        more = "" if wanted == 1 else f", which leaves no room for {wanted} more"
        super().__init__(f"{waiting} requests already wait for {model!r}{more}")
        self.model = model
        self.waiting = waiting
        self.wanted = wanted
        self.retry_after_seconds = retry_after_seconds


class ModelUnavailable(SchedulerError, RuntimeError):
    """A model can't be served at the moment, with the reason."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"model {model!r} can't be served: {reason}")
        self.model = model
        self.reason = reason


class InvalidRequest(SchedulerError, ValueError):
    """A request that will never run; `param` names the field at fault."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class DuplicateRequest(SchedulerError, ValueError):
    """A request of that id is running."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request {request_id!r} is already running")
        self.request_id = request_id


class DeadlineExceeded(SchedulerError, TimeoutError):
    """A request's deadline passed before it ended."""

    def __init__(self, request_id: str, *, deadline_seconds: float, state: str) -> None:
        super().__init__(f"request {request_id!r} passed its {deadline_seconds:g} s while {state}")
        self.request_id = request_id


class RequestLost(SchedulerError, RuntimeError):
    """The places a request ran at died too often."""

    def __init__(self, request_id: str, *, attempts: int, reason: str) -> None:
        super().__init__(f"request {request_id!r} was lost {attempts} times, last: {reason}")
        self.request_id = request_id


class ModelBroken(SchedulerError, ArithmeticError):
    """A model computed what no token can be chosen from; it would again."""


class StateUnavailable(SchedulerError, RuntimeError):
    """The SQL state can't be used as it is."""


class LeadershipLost(SchedulerError, RuntimeError):
    """Another controller leads; this one must stop."""


class ClientGone(SchedulerError, ConnectionError):
    """A client left before its answer was complete."""

    def __init__(self) -> None:
        super().__init__("the client closed its connection")


class ClientTooSlow(SchedulerError, ConnectionError):
    """A client reads its answer so slowly that it can't be held any longer."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"request {request_id!r} was given up: its answer is read too slowly")
        self.request_id = request_id


class ServerStopping(SchedulerError, RuntimeError):
    """A server that stops cuts what is still running."""

    def __init__(self) -> None:
        super().__init__("the server is stopping")


class BodyTooLarge(SchedulerError, ValueError):
    """A request body larger than the server takes."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the request body is larger than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


class BodyTimeout(SchedulerError, TimeoutError):
    """A request body that takes too long to arrive."""

    def __init__(self, limit_seconds: float) -> None:
        super().__init__(f"the request body did not arrive within {limit_seconds:g} s")


class UnsupportedMediaType(SchedulerError, ValueError):
    """A request body that is not plain JSON."""


class UnreadableExecutionFile(SchedulerError, ValueError):
    """A tokenizer, template or configuration beside a model's weights that can't be used."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file} can't be used: {reason}")
        self.file = file


class BrokenTrace(SchedulerError, ValueError):
    """A file breaks a rule of its trace's format, or can't be read."""

    def __init__(self, path: Path, rule: str, *, row: int | None = None) -> None:
        place = str(path) if row is None else f"{path}, row {row:,d}"
        super().__init__(f"{place}: {rule}")
        self.path = path
        self.row = row
        """From 1, the header among them; None where it is about no row in particular."""
        self.rule = rule

    def __reduce__(self) -> tuple[Callable[..., BrokenTrace], tuple[()]]:
        # It crosses from one process to another.
        return partial(BrokenTrace, self.path, self.rule, row=self.row), ()


def quoted(text: str) -> str:
    """Return what somebody gave, in quotes, no longer than an error message may be."""
    return repr(text if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED]}…")
