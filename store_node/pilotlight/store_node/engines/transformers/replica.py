"""One replica's model, from its configuration to its running step loop."""

# Transformers' model classes are half typed:
# pyright: basic
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from pilotlight.native_loader.memory.memory_limits import available_memory_bytes
from pilotlight.store_node.engines.engine import EngineSetup, Offer, Weights
from pilotlight.store_node.engines.transformers.adapters import Adapter
from pilotlight.store_node.engines.transformers.binding import attach_weights
from pilotlight.store_node.engines.transformers.blueprints import Blueprint, redraw_blueprint
from pilotlight.store_node.engines.transformers.configuration import settings_of
from pilotlight.store_node.engines.transformers.decoder import PackedDecoder, SeparateDecoder
from pilotlight.store_node.engines.transformers.loop import StepLoop
from pilotlight.store_node.engines.transformers.manners import Manner
from pilotlight.store_node.engines.transformers.options import TransformersOptions
from pilotlight.store_node.engines.transformers.positions import pin_frequencies
from pilotlight.store_node.errors import InvalidOption

# Of the machine's free memory, what keys and values of one replica may take.
_KV_SHARE = 8


class Replica:
    """A model without weights, then with them."""

    def __init__(
        self,
        blueprint: Blueprint,
        setup: EngineSetup,
        options: TransformersOptions,
        *,
        clock: Callable[[], float],
    ) -> None:
        """Do all that needs no weights."""
        torch.set_num_threads(setup.threads)
        self._clock = clock
        self._options = options
        self._concurrency = max(1, setup.spec.concurrency)
        self._blueprint = blueprint
        self._adapter = _adapter_of(setup, options)
        self._settings = settings_of(blueprint.config, context_tokens=setup.spec.context_tokens)
        self._loop: StepLoop[Any] | None = None

    @property
    def loop(self) -> StepLoop[Any]:
        """What runs requests, once bound."""
        assert self._loop is not None, "an engine is bound before it is given work"
        return self._loop

    @property
    def is_busy(self) -> bool:
        """True while a step has something to do."""
        return self._loop is not None and self._loop.is_busy

    def bind(self, weights: Weights) -> Offer:
        """Attach the weights and begin to take requests."""
        tensors = weights.tensors()
        if not self._blueprint.has_stated_dtype:
            self._adopt_dtype(tensors)
        model = self._blueprint.model
        copied_bytes = attach_weights(model, tensors, weights.aliases)
        _follow(model)
        if self._adapter is not None:
            self._adapter.attach(model)
        offer = self._offer(
            copied_bytes=weights.copied_bytes + copied_bytes,
            has_long_positions=pin_frequencies(model, context_tokens=self._settings.context_tokens),
        )
        manner = self._blueprint.manner
        decoder = PackedDecoder(model) if manner is Manner.PACKED else SeparateDecoder(model)
        self._loop = StepLoop(
            decoder,
            offer,
            vocabulary=self._settings.vocabulary,
            prefill_chunk=None if manner is Manner.WHOLE else self._options.prefill_chunk,
            clock=self._clock,
        )
        return offer

    def _offer(self, *, copied_bytes: int, has_long_positions: bool) -> Offer:
        block = self._options.kv_block_tokens
        kv_tokens = self._options.kv_tokens or self._affordable_kv_tokens()
        if kv_tokens < block:
            raise InvalidOption(
                f"engine option kv_tokens={kv_tokens} is less than one block of {block} tokens"
            )
        return Offer(
            concurrency=self._concurrency,
            context_tokens=self._settings.context_tokens,
            dtype=str(self._blueprint.model.dtype).removeprefix("torch."),
            copied_bytes=copied_bytes,
            kv_tokens=kv_tokens // block * block,
            kv_block_tokens=block,
            variant=self._variant(has_long_positions=has_long_positions),
        )

    def _variant(self, *, has_long_positions: bool) -> str:
        parts = [self._adapter.variant] if self._adapter is not None else []
        return " ".join([*parts, "long-positions"] if has_long_positions else parts)

    def _affordable_kv_tokens(self) -> int:
        """Return what all requests can use, or what there is memory for if that is less."""
        block, context_tokens = self._options.kv_block_tokens, self._settings.context_tokens
        longest = -(-context_tokens // block) * block
        usable = self._concurrency * longest
        token_bytes = self._settings.kv_token_items * self._blueprint.model.dtype.itemsize
        available = available_memory_bytes()
        if available is None or not token_bytes:
            return usable
        return max(block, min(usable, available // _KV_SHARE // token_bytes))

    def _adopt_dtype(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Where config.json names no dtype, take that of the first weights, as the library does."""
        floating = (tensor.dtype for tensor in tensors.values() if tensor.is_floating_point())
        dtype = next(floating, self._blueprint.model.dtype)
        if dtype != self._blueprint.model.dtype:
            self._blueprint = redraw_blueprint(self._blueprint, dtype)


def _follow(model: PreTrainedModel) -> None:
    """Move what was computed, not loaded, to the device that the weights are on."""
    for buffer in model.buffers():
        buffer.data = buffer.data.to(model.device)


def _adapter_of(setup: EngineSetup, options: TransformersOptions) -> Adapter | None:
    if not options.adapter:
        return None
    if setup.adapter is None:
        raise InvalidOption(
            f"engine option adapter={options.adapter!r}: there is none of that name"
        )
    return Adapter(setup.adapter)
