"""Attention for tokens of several sequences that one forward computes together.

Theory of operation. The new tokens of all sequences of a step lie behind each
other in one row, so that every layer but attention sees one long sequence: its
weights are read once, whatever the number of requests. In attention each
sequence meets its own past and nobody else's. The library calls `attend`, by
the name that it is registered under, with the keys and values of the new tokens
of the row; the past lies in buffers that each sequence has from its admission.
No token of padding is computed, and nothing depends on who else is in the row.
"""

# Transformers' attention interface is untyped:
# pyright: basic
from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ATTENTION = "pilotlight"
"""What a model's configuration calls this attention."""

# What layers pass along that changes nothing here: training, what is in the row already, and
# what else is to be returned.
_HARMLESS = frozenset(
    {
        "dropout",
        "is_causal",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "position_ids",
        "use_cache",
    }
)
_HARMLESS_IF_NONE = frozenset({"encoder_hidden_states", "encoder_attention_mask", "position_bias"})

# Scores that are computed in one go where no fused kernel does: 64 MiB of float32.
_MOST_SCORES = 1 << 24


class UnknownAttention(NotImplementedError):
    """A layer's attention is of a kind that is not computed here."""


class Past:
    """The keys and values of one sequence, in buffers as long as it may ever become."""

    def __init__(self, capacity_tokens: int, shapes: KvShapes) -> None:
        """Take the buffers of all layers, once their shapes are known.

        Raises:
            MemoryError: there is no memory for them.
        """
        self.n_tokens = 0
        """How many are computed."""
        self._capacity_tokens = capacity_tokens
        self._shapes = shapes
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for layer, (key, value) in shapes.items():
            self._layers[layer] = self._buffer(key), self._buffer(value)

    def append(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store those [heads, n, size] of new tokens; return those of all, without a copy."""
        if layer not in self._layers:
            # A model's first request is the one to find out.
            self._shapes.setdefault(layer, (key[:, :0].clone(), value[:, :0].clone()))
            self._layers[layer] = self._buffer(key), self._buffer(value)
        keys, values = self._layers[layer]
        end = self.n_tokens + key.shape[1]
        keys[:, self.n_tokens : end] = key
        values[:, self.n_tokens : end] = value
        if self.n_tokens == 0:
            # They lie closer together than in buffers with room for more.
            return key, value
        return keys[:, :end], values[:, :end]

    def _buffer(self, part: torch.Tensor) -> torch.Tensor:
        try:
            return part.new_empty(part.shape[0], self._capacity_tokens, part.shape[2])
        except RuntimeError as error:
            # Torch has no class of its own for it.
            raise MemoryError(f"no memory for {self._capacity_tokens} tokens") from error


KvShapes = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""Keys and values of no token, by layer: what those of a model are like."""


class Share:
    """One sequence's tokens in the row of a step."""

    def __init__(self, past: Past, n_new: int) -> None:
        self.past = past
        self.n_new = n_new
        self._masks: dict[int | None, torch.Tensor] = {}

    def mask(self, like: torch.Tensor, *, window: int | None) -> torch.Tensor:
        """Return what to add to scores [n_new, all tokens]: 0, or minus infinity.

        All layers of a step share it.
        """
        if window not in self._masks:
            past, end = self.past.n_tokens, self.past.n_tokens + self.n_new
            rows = torch.arange(past, end, device=like.device)[:, None]
            columns = torch.arange(end, device=like.device)[None, :]
            hidden = columns > rows
            if window is not None:
                hidden |= columns <= rows - window
            mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
            self._masks[window] = mask.masked_fill_(hidden, -math.inf)
        return self._masks[window]


_shares: ContextVar[Sequence[Share]] = ContextVar("shares")


@contextmanager
def attending(shares: Sequence[Share]) -> Generator[None]:
    """Say whose tokens the row of the forward within holds, in order."""
    token = _shares.set(shares)
    try:
        yield
    finally:
        _shares.reset(token)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: object,
) -> tuple[torch.Tensor, None]:
    """Be the attention of a layer, as the library's interface asks for it.

    Takes query [1, heads, row, size], key and value [1, key heads, row, size];
    returns [1, row, heads, size].

    Raises:
        UnknownAttention: the layer asks for what is not done here.
    """
    unknown = {
        name
        for name, value in others.items()
        if name not in _HARMLESS and not (name in _HARMLESS_IF_NONE and value is None)
    }
    if attention_mask is not None:
        unknown.add("attention_mask")
    if unknown:
        raise UnknownAttention(f"{type(module).__name__} asks for {', '.join(sorted(unknown))}")
    layer: int = module.layer_idx  # type: ignore[assignment]  # untyped there
    special = softcap is not None or s_aux is not None
    outputs: list[torch.Tensor] = []
    start = 0
    for share in _shares.get():
        end = start + share.n_new
        queries = query[0, :, start:end]
        keys, values = share.past.append(layer, key[0, :, start:end], value[0, :, start:end])
        if special:
            mask = share.mask(queries, window=sliding_window)
            output = _attend_plainly(queries, keys, values, mask, scaling, softcap, s_aux)
        else:
            output = _attend_fast(share, queries, keys, values, scaling, sliding_window)
        outputs.append(output)
        start = end
    joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    return joined.transpose(0, 1).contiguous()[None], None


def _attend_fast(
    share: Share,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    n_heads, n_new, size = queries.shape
    n_groups = n_heads // keys.shape[0]
    if n_new == 1:
        # It sees the last tokens, itself included, and needs no mask for that. Heads that share
        # keys become rows of one head: nothing is repeated in memory.
        if window is not None:
            keys, values = keys[:, -window:], values[:, -window:]
        output = scaled_dot_product_attention(
            queries.reshape(1, -1, n_groups, size), keys[None], values[None], scale=scaling
        )
        return output.reshape(n_heads, 1, -1)
    is_causal = n_new == keys.shape[1] and (window is None or window >= n_new)
    output = scaled_dot_product_attention(
        queries[None],
        keys[None],
        values[None],
        attn_mask=None if is_causal else share.mask(queries, window=window),
        is_causal=is_causal,
        scale=scaling,
        enable_gqa=n_groups > 1,
    )
    return output[0]


def _attend_plainly(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Attend with what fused kernels don't know: capped scores, and sinks.

    A few rows at a time, for all scores of a long prompt are gigabytes.
    """
    n_heads, n_new, size = queries.shape
    n_groups, n_tokens = n_heads // keys.shape[0], keys.shape[1]
    scale = size**-0.5 if scaling is None else scaling
    transposed = keys.repeat_interleave(n_groups, dim=0).transpose(1, 2)
    repeated = values.repeat_interleave(n_groups, dim=0)
    n_rows = max(1, _MOST_SCORES // (n_heads * n_tokens))
    outputs: list[torch.Tensor] = []
    for first in range(0, n_new, n_rows):
        scores = queries[:, first : first + n_rows] @ transposed * scale
        if softcap is not None:
            scores = (scores / softcap).tanh() * softcap
        scores = scores + mask[first : first + n_rows]
        if sinks is not None:
            column = sinks.reshape(-1, 1, 1).expand(-1, scores.shape[1], 1).to(scores.dtype)
            scores = torch.cat([scores, column], dim=2)
        wide = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.softmax(dim=2, dtype=wide).to(queries.dtype)
        outputs.append(weights[:, :, :n_tokens] @ repeated)
    return torch.cat(outputs, dim=1)


AttentionInterface.register(ATTENTION, attend)
