"""The controller, as a gateway in the same process sees it."""

from __future__ import annotations

from collections.abc import Sequence

from pilotlight.scheduler.core.events import DemandChanged
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.driver.driver import Driver
from pilotlight.scheduler.driver.execution_files import ExecutionFiles
from pilotlight.scheduler.errors import UnknownModel
from pilotlight.scheduler.gateway.backend import ServedModel
from pilotlight.store_node.protocol import ModelId, ReplicaId


class LocalLink:
    """Implements `ControllerLink` by calling the driver."""

    def __init__(self, driver: Driver, files: ExecutionFiles) -> None:
        self._driver = driver
        self._files = files

    def models(self) -> Sequence[ServedModel]:
        """Return all deployed models, by name."""
        models = self._driver.core.state.models
        return [self._served(models[name]) for name in sorted(models)]

    async def find(self, name: str) -> ServedModel:
        """Return one model, its execution files fetched; see `ControllerLink.find`."""
        models = self._driver.core.state.models
        model = models.get(ModelId(name))
        if model is None:
            raise UnknownModel(name, known=list(models))
        if not self._files.directory(model).exists():
            await self._files.fetch(model)
        return self._served(model)

    def report_demand(self, model: ModelId, *, waiting: int, oldest_arrival: float | None) -> None:
        """Say how many requests wait for a model, and since when (monotonic seconds)."""
        self._driver.post(
            DemandChanged(model=model, waiting=waiting, oldest_arrival=oldest_arrival)
        )

    def report_first_token(self, replica: ReplicaId, *, seconds: float) -> None:
        """Say how long the first request that a replica served had waited for its first token."""
        self._driver.first_token(replica, seconds=seconds)

    def _served(self, model: Model) -> ServedModel:
        return ServedModel(
            name=model.name,
            context_tokens=model.context_tokens,
            deployed_at=model.deployed_at,
            directory=self._files.directory(model),
            version=self._files.version(model),
            queue_limit=model.queue_limit,
        )
