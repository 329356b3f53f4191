"""The errors of the store node."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StoreNodeError(Exception):
    """Root of what the store node raises."""


class UnknownEngine(StoreNodeError, LookupError):
    """No engine of that name is installed."""

    def __init__(self, name: str, *, installed: Iterable[str]) -> None:
        names = sorted(installed)
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; installed: {', '.join(names)}"
        super().__init__(f"no engine {name!r} is installed{hint}")
        self.name = name


class EngineUnavailable(StoreNodeError, ImportError):
    """An installed engine that can't be imported; says which distribution brings it."""

    def __init__(self, target: str, *, distribution: str = "", reason: str) -> None:
        origin = f" of distribution {distribution!r}" if distribution else ""
        super().__init__(f"engine {target!r}{origin} can't be imported: {reason}")
        self.target = target
        self.distribution = distribution


class EngineFault(StoreNodeError):
    """Root of what ends an engine, with a code that travels to the node."""

    code = "engine_failed"


class InvalidOption(EngineFault, ValueError):
    """An engine option that is unknown or makes no sense."""

    code = "invalid_option"


class UnsupportedModel(EngineFault, ValueError):
    """A checkpoint whose configuration the engine can't build."""

    code = "unsupported_model"


class WeightsMismatch(EngineFault, ValueError):
    """Weights that don't fit the configuration beside them; names the tensors at fault."""

    code = "weights_mismatch"

    _NAMED = 5

    def __init__(
        self,
        *,
        missing: Iterable[str] = (),
        unexpected: Iterable[str] = (),
        misshaped: Iterable[str] = (),
    ) -> None:
        self.missing = tuple(sorted(missing))
        self.unexpected = tuple(sorted(unexpected))
        self.misshaped = tuple(sorted(misshaped))
        kinds = {
            "missing": self.missing,
            "not in the model": self.unexpected,
            "of another shape": self.misshaped,
        }
        parts = [self._describe(kind, names) for kind, names in kinds.items() if names]
        super().__init__(f"the weights don't fit config.json: {'; '.join(parts)}")

    def _describe(self, kind: str, names: tuple[str, ...]) -> str:
        more = f" and {len(names) - self._NAMED} more" if len(names) > self._NAMED else ""
        return f"{len(names)} {kind}: {', '.join(names[: self._NAMED])}{more}"


class InvalidLogits(EngineFault, ArithmeticError):
    """A model computed something that no token can be chosen from."""

    code = "invalid_logits"

    def __init__(self, request_id: str, *, position: int) -> None:
        super().__init__(
            f"the model's logits for request {request_id!r} at position {position} are not finite"
        )
        self.request_id = request_id
        self.position = position


class EngineFailed(StoreNodeError, RuntimeError):
    """A worker's engine gave up while it was asked for something: its code and one line."""

    def __init__(self, worker_id: str, *, code: str, message: str) -> None:
        super().__init__(message)
        self.worker_id = worker_id
        self.code = code


class WorkerDied(StoreNodeError, ConnectionError):
    """A worker ended before it answered."""

    def __init__(self, worker_id: str, *, reason: str, log_tail: str = "") -> None:
        super().__init__(reason)
        self.worker_id = worker_id
        self.reason = reason
        self.log_tail = log_tail


class NodeGone(StoreNodeError, ConnectionError):
    """Nobody is at the node's end of a connection any more."""

    def __init__(self) -> None:
        super().__init__("the node is gone")


class BrokenFrame(StoreNodeError, ValueError):
    """Bytes between a node and its workers that are no message."""


class InvalidName(StoreNodeError, ValueError):
    """A name that a node can't have."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name!r} can't name a node: letters, digits, '.', '_' and '-', at most 63"
        )
        self.name = name


class NameTaken(StoreNodeError, RuntimeError):
    """A running node of the same home directory has that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"a node named {name!r} is running here; choose another --name")
        self.name = name


class InvalidSettings(StoreNodeError, ValueError):
    """Settings that can't be met on this machine."""
