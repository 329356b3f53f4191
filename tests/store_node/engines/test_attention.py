"""Attention of several sequences in one row."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pilotlight.store_node.engines.transformers import attention
from pilotlight.store_node.engines.transformers.attention import (
    Past,
    Share,
    UnknownAttention,
    attend,
    attending,
)

_LAYER: Any = SimpleNamespace(layer_idx=0)


def _row(n_tokens: int, n_heads: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, n_heads, n_tokens, 8, dtype=torch.float64, generator=generator)


def _attend(n_tokens: int, **options: Any) -> torch.Tensor:
    share = Share(Past(n_tokens, {}), n_tokens)
    with attending([share]):
        output, _ = attend(
            _LAYER,
            _row(n_tokens, 4, 1),
            _row(n_tokens, 2, 2),
            _row(n_tokens, 2, 3),
            None,
            **options,
        )
    return output


@pytest.mark.parametrize("options", [{"softcap": 5.0}, {"s_aux": torch.ones(4)}])
def test_scores_are_computed_a_few_rows_at_a_time(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    whole = _attend(21, **options)

    # 4 heads, 21 tokens: two rows of scores at a time.
    monkeypatch.setattr(attention, "_MOST_SCORES", 4 * 21 * 2)

    assert torch.allclose(_attend(21, **options), whole, atol=1e-12)


def test_a_wide_cap_and_no_sink_change_nothing() -> None:
    plain = _attend(9)

    assert torch.allclose(_attend(9, softcap=1e9), plain, atol=1e-6)
    assert torch.allclose(_attend(9, s_aux=torch.full((4,), -1e9)), plain, atol=1e-6)


def test_what_is_not_computed_here_is_refused() -> None:
    with pytest.raises(UnknownAttention, match="asks for block_indices"):
        _attend(3, block_indices=torch.zeros(1))
    with pytest.raises(UnknownAttention, match="asks for position_bias"):
        _attend(3, position_bias=torch.zeros(1))

    assert _attend(3, position_bias=None, output_attentions=False).shape == (1, 3, 4, 8)
