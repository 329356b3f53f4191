"""What passes between a gateway and the controller, in this process or over a wire."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pilotlight.scheduler.gateway.backend import ServedModel
from pilotlight.store_node.protocol import ModelId, ReplicaId


class ControllerLink(Protocol):
    """The controller, as a gateway sees it.

    The other direction is `Router.apply`, which the controller calls with every
    change of routes.
    """

    def models(self) -> Sequence[ServedModel]:
        """Return all deployed models, by name."""
        ...

    async def find(self, name: str) -> ServedModel:
        """Return one model, its execution files fetched.

        Raises:
            UnknownModel: it is not deployed.
            ModelUnavailable: its execution files can't be had at the moment.
        """
        ...

    def report_demand(self, model: ModelId, *, waiting: int, oldest_arrival: float | None) -> None:
        """Say how many requests wait for a model, and since when (monotonic seconds)."""
        ...

    def report_first_token(self, replica: ReplicaId, *, seconds: float) -> None:
        """Say how long the first request that a replica served had waited for its first token."""
        ...
