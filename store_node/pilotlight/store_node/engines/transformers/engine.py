"""The engine as the node and the worker see it; torch comes with `preload` or `prepare`."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from pilotlight.store_node.engines.engine import Emission, EngineSetup, Offer, Weights, Work
from pilotlight.store_node.engines.options import read_options
from pilotlight.store_node.errors import EngineUnavailable
from pilotlight.store_node.protocol.values import RequestId

if TYPE_CHECKING:
    from pilotlight.store_node.engines.transformers.replica import Replica

# Raised by hand when the step loop or the sampling computes other tokens than before.
_STEP_LOOP_VERSION = 2


class TransformersOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The engine options of `transformers`: there are none."""


class TransformersEngine:
    """Runs a causal language model of the transformers library, one request at a time."""

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
    def preload(cls, architectures: Sequence[str]) -> None:
        """Import the library, and run a tiny model of each architecture once."""
        from pilotlight.store_node.engines.transformers.warmup import warm_up

        warm_up(architectures)

    def prepare(self, setup: EngineSetup) -> None:
        """Build the model on the meta device."""
        from pilotlight.store_node.engines.transformers.configuration import read_settings
        from pilotlight.store_node.engines.transformers.replica import Replica

        read_options(setup.spec.engine_options, TransformersOptions)
        settings = read_settings(
            setup.directory, dtype=setup.spec.dtype, context_tokens=setup.spec.context_tokens
        )
        self._prepared = Replica(settings, threads=setup.threads, clock=self._clock)

    def bind(self, weights: Weights) -> Offer:
        """Attach the weights to the model, copying none that fits."""
        return self._replica.bind(weights)

    def admit(self, work: Work) -> None:
        """Take a request if none runs."""
        self._replica.loop.admit(work)

    def cancel(self, request_id: RequestId) -> None:
        """Forget a request, its keys and values included."""
        self._replica.loop.cancel(request_id)

    def step(self) -> Sequence[Emission]:
        """Compute the next token of each request: by a prefill where it is its first one."""
        return self._replica.loop.step()

    @property
    def is_busy(self) -> bool:
        """True while requests run."""
        return self._prepared is not None and self._prepared.is_busy

    @property
    def _replica(self) -> Replica:
        assert self._prepared is not None, "an engine is prepared first"
        return self._prepared
