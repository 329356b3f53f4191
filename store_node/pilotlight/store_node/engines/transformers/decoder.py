"""Running a bound model: tokens of several sequences in, the logits that follow them out."""

# Transformers' model classes are half typed:
# pyright: basic
from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from transformers import PreTrainedModel

from pilotlight.store_node.engines.transformers.attention import KvShapes, Past, Share, attending

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Part(Generic[S]):
    """One sequence's new tokens in a step."""

    sequence: S
    token_ids: Sequence[int]
    wants_logits: bool
    """Whether the logits that follow the last of them are asked for."""


class Decoder(Protocol[S]):
    """Computes sequences, whose state `S` only it knows."""

    def begin(self, capacity_tokens: int) -> S:
        """Begin a sequence that will have at most so many tokens.

        Raises:
            MemoryError: there is no memory for them.
        """
        ...

    def extend(self, parts: Sequence[Part[S]]) -> torch.Tensor:
        """Add each part's tokens to its sequence.

        Returns the logits that follow those parts that want some, [parts that do,
        vocabulary], in the processor's memory, in float32, or float64 where the model
        computes in that.
        """
        ...


class PackedDecoder:
    """Computes all parts in one forward, in one row without padding.

    For models that leave attention to the library's interface and whose other
    layers look at one token at a time; `manners` finds out which do.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._takes_places = _takes(model, "logits_to_keep")
        self._shapes: KvShapes = {}

    def begin(self, capacity_tokens: int) -> Past:
        """Begin a sequence."""
        return Past(capacity_tokens, self._shapes)

    @torch.inference_mode()
    def extend(self, parts: Sequence[Part[Past]]) -> torch.Tensor:
        """Run one forward over all parts."""
        shares = [Share(part.sequence, len(part.token_ids)) for part in parts]
        ids: list[int] = []
        positions: list[int] = []
        places: list[int] = []
        for part, share in zip(parts, shares, strict=True):
            ids += part.token_ids
            positions += range(share.past.n_tokens, share.past.n_tokens + share.n_new)
            if part.wants_logits:
                places.append(len(ids) - 1)
        # Some models can't compute the logits of no token at all.
        logits = self._forward(ids, positions, places or [0], shares)
        for share in shares:
            share.past.n_tokens += share.n_new
        return logits[: len(places)]

    def _forward(
        self, ids: list[int], positions: list[int], places: list[int], shares: Sequence[Share]
    ) -> torch.Tensor:
        device = self._model.device
        wanted = torch.tensor(places, device=device)
        options: dict[str, Any] = {"logits_to_keep": wanted} if self._takes_places else {}
        with attending(shares):
            output = self._model(
                input_ids=torch.tensor([ids], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                **options,
            )
        logits: torch.Tensor = output.logits[0]
        return _widened(logits if self._takes_places else logits[wanted])


class CachedSequence:
    """What the library keeps of one sequence: a cache of whatever kind its model makes."""

    def __init__(self) -> None:
        self.cache: Any = None
        self.n_tokens = 0


class SeparateDecoder:
    """Computes one part after another, each by a forward with a cache of the library's.

    For whatever the library builds that `PackedDecoder` is not for: other
    position schemes, recurrent layers. Requests run side by side all the same.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._takes_positions = _takes(model, "position_ids")
        self._options: dict[str, Any] = {"use_cache": True}
        if _takes(model, "logits_to_keep"):
            self._options["logits_to_keep"] = 1

    def begin(self, capacity_tokens: int) -> CachedSequence:
        """Begin a sequence; its cache grows by itself."""
        return CachedSequence()

    @torch.inference_mode()
    def extend(self, parts: Sequence[Part[CachedSequence]]) -> torch.Tensor:
        """Run a forward for each part."""
        rows = [self._forward(part) for part in parts]
        wanted = [row for row, part in zip(rows, parts, strict=True) if part.wants_logits]
        return _widened(torch.stack(wanted if wanted else rows)[: len(wanted)])

    def _forward(self, part: Part[CachedSequence]) -> torch.Tensor:
        sequence, device = part.sequence, self._model.device
        end = sequence.n_tokens + len(part.token_ids)
        positions: dict[str, Any] = {}
        if self._takes_positions:
            # Some models would begin at 0 again.
            positions["position_ids"] = torch.arange(sequence.n_tokens, end, device=device)[None]
        output = self._model(
            input_ids=torch.tensor([list(part.token_ids)], device=device),
            past_key_values=sequence.cache,
            **positions,
            **self._options,
        )
        sequence.cache, sequence.n_tokens = _cache_of(output), end
        logits: torch.Tensor = output.logits[0, -1]
        return logits


class StateKept(NotImplementedError):
    """A model keeps what it has seen to itself, so that only one sequence can be computed."""


def _cache_of(output: Any) -> Any:
    cache = getattr(output, "past_key_values", None)
    if cache is None:
        raise StateKept("the model returns no keys and values")
    return cache


def _takes(model: PreTrainedModel, name: str) -> bool:
    return name in inspect.signature(model.forward).parameters


def _widened(logits: torch.Tensor) -> torch.Tensor:
    """Return logits as tokens are chosen from: by the processor, all rows in one transfer."""
    return logits.to("cpu", torch.promote_types(logits.dtype, torch.float32))
