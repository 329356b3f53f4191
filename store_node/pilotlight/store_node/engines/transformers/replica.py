"""One replica's model, from its configuration to its running step loop."""

# Transformers' model classes are half typed:
# pyright: basic
from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from pilotlight.store_node.engines.engine import Offer, Weights
from pilotlight.store_node.engines.transformers.binding import attach_weights
from pilotlight.store_node.engines.transformers.configuration import ModelSettings
from pilotlight.store_node.engines.transformers.decoder import Decoder
from pilotlight.store_node.engines.transformers.loop import StepLoop
from pilotlight.store_node.engines.transformers.model import build_model


class Replica:
    """A model without weights, then with them."""

    def __init__(
        self, settings: ModelSettings, *, threads: int, clock: Callable[[], float]
    ) -> None:
        """Do all that needs no weights."""
        torch.set_num_threads(threads)
        self._clock = clock
        self._settings = settings
        dtype = settings.dtype or torch.get_default_dtype()
        self._model = build_model(settings.config, dtype)
        self._loop: StepLoop | None = None

    @property
    def loop(self) -> StepLoop:
        """What runs requests, once bound."""
        assert self._loop is not None, "an engine is bound before it is given work"
        return self._loop

    @property
    def is_busy(self) -> bool:
        """True while requests run."""
        return self._loop is not None and self._loop.is_busy

    def bind(self, weights: Weights) -> Offer:
        """Attach the weights and begin to take requests."""
        tensors = weights.tensors()
        if self._settings.dtype is None:
            self._adopt_dtype(tensors)
        copied_bytes = attach_weights(self._model, tensors, weights.aliases)
        self._loop = StepLoop(
            Decoder(self._model),
            context_tokens=self._settings.context_tokens,
            vocabulary=self._settings.vocabulary,
            clock=self._clock,
        )
        return Offer(
            concurrency=self._loop.concurrency,
            context_tokens=self._settings.context_tokens,
            dtype=str(self._model.dtype).removeprefix("torch."),
            copied_bytes=weights.copied_bytes + copied_bytes,
        )

    def _adopt_dtype(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Where config.json names no dtype, take that of the first weights, as the library does."""
        floating = (tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
        dtype = next(floating, self._model.dtype)
        if dtype != self._model.dtype:
            self._model = build_model(self._settings.config, dtype)
