"""Running a bound model: a sequence's prefill, and its decoding token by token."""

# Transformers' model classes are half typed:
# pyright: basic
from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel


class SequenceCache:
    """The keys and values of one sequence so far."""

    def __init__(self, layers: DynamicCache) -> None:
        self.layers = layers


class Decoder:
    """Turns token ids into the logits of the token that follows them."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._options: dict[str, int] = {"use_cache": True}
        if "logits_to_keep" in inspect.signature(model.forward).parameters:
            self._options["logits_to_keep"] = 1

    def new_cache(self) -> SequenceCache:
        """Begin a sequence."""
        return SequenceCache(DynamicCache(config=self._model.config))

    @torch.inference_mode()
    def extend(self, cache: SequenceCache, token_ids: Sequence[int]) -> torch.Tensor:
        """Add tokens to a sequence; return the logits that follow the last one, in float32."""
        output = self._model(
            input_ids=torch.tensor([token_ids], dtype=torch.long),
            past_key_values=cache.layers,
            **self._options,
        )
        logits: torch.Tensor = output.logits[0, -1]
        return logits.float()
