"""The engine as the node and the worker see it; torch comes with `preload` or `prepare`."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pilotlight.store_node.engines.engine import (
    Emission,
    EngineSetup,
    Extension,
    Offer,
    Weights,
    Work,
)
from pilotlight.store_node.engines.options import read_options
from pilotlight.store_node.errors import EngineUnavailable
from pilotlight.store_node.protocol.values import RequestId

if TYPE_CHECKING:
    from pilotlight.store_node.engines.transformers.replica import Replica

# Raised by hand when the step loop or the sampling computes other tokens than before.
_STEP_LOOP_VERSION = 3


class TransformersEngine:
    """Runs causal language models of the transformers library by a step loop of its own."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._prepared: Replica | None = None

    @classmethod
    def version(cls) -> str:
        """Return the versions of all that decides the tokens, importing none of it."""
        try:
            versions = [
                f"{name}-{importlib.metadata.version(name)}" for name in ("transformers", "torch")
            ]
        except importlib.metadata.PackageNotFoundError as error:
            raise EngineUnavailable(
                "transformers",
                reason=f"{error.name} is not installed; pip install 'pilotlight[node]'",
            ) from error
        return " ".join((f"loop-{_STEP_LOOP_VERSION}", *versions))

    @classmethod
    def preload(cls, checkpoints: Sequence[Path]) -> None:
        """Import the library, build the checkpoints' models, and run a tiny one of each kind."""
        from pilotlight.store_node.engines.transformers.warmup import warm_up

        warm_up(checkpoints)

    def prepare(self, setup: EngineSetup) -> None:
        """Take or build the model, on the meta device."""
        from pilotlight.store_node.engines.transformers.blueprints import take_blueprint
        from pilotlight.store_node.engines.transformers.options import TransformersOptions
        from pilotlight.store_node.engines.transformers.replica import Replica

        options = read_options(setup.spec.engine_options, TransformersOptions)
        blueprint = take_blueprint(
            setup.directory,
            dtype=setup.spec.dtype,
            allow_custom_code=setup.allow_custom_code,
        )
        self._prepared = Replica(blueprint, setup, options, clock=self._clock)

    def bind(self, weights: Weights) -> Offer:
        """Attach the weights to the model, copying none that fits."""
        return self._replica.bind(weights)

    def admit(self, work: Work) -> None:
        """Take a request if there is a slot, and memory for all that it may come to."""
        self._replica.loop.admit(work)

    def extend(self, extension: Extension) -> None:
        """Give a held request more tokens."""
        self._replica.loop.extend(extension)

    def cancel(self, request_id: RequestId) -> None:
        """Forget a request, its keys and values included."""
        self._replica.loop.cancel(request_id)

    def step(self) -> Sequence[Emission]:
        """Compute a token of each request, and a chunk of the prompts of those that are new."""
        return self._replica.loop.step()

    @property
    def is_busy(self) -> bool:
        """True while a step has something to do."""
        return self._prepared is not None and self._prepared.is_busy

    @property
    def _replica(self) -> Replica:
        assert self._prepared is not None, "an engine is prepared first"
        return self._prepared
