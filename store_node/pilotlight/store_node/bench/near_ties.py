"""Whether two tokens all but tied where an output differs from another.

Arithmetic in float32 rounds otherwise for a batch than for a single request. That
may change which token is chosen only where a change of the logits as small as the
rounding does; how small it has to be is found with the engine's own rule.
"""
# pyright: basic
# transformers comes without types.

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from pilotlight.store_node.bench.equality import Difference, Model
from pilotlight.store_node.bench.from_pretrained import last_logits
from pilotlight.store_node.engines.progress import Progress
from pilotlight.store_node.engines.transformers.penalties import Penalties
from pilotlight.store_node.engines.transformers.sampling import choose_token

_LEAST = 1e-9
_MOST = 100.0
_BISECTIONS = 20


def margin(model: Any, limits: Model, difference: Difference) -> float:
    """Return by how much logits must move for the other token to be chosen.

    In standard deviations of the logits that a plain forward pass computes for the
    tokens before; infinite where no movement of the two tokens explains it.
    """
    if difference.expected_id is None or difference.found_id is None:
        return math.inf
    work = replace(difference.work, emitted_ids=difference.ids_before)
    progress = Progress(work, context_tokens=limits.context_tokens, vocabulary=limits.vocabulary)
    logits = last_logits(model, (*work.prompt_ids, *work.emitted_ids))
    return max(
        _movement(logits, token_id, progress)
        for token_id in (difference.expected_id, difference.found_id)
    )


def _movement(logits: torch.Tensor, token_id: int, progress: Progress) -> float:
    """Return the least movement with which a token is chosen, within a factor of 1.001."""
    spread = float(logits.std())
    chosen = _choose(logits, progress)

    def is_chosen(movement: float) -> bool:
        moved = logits.clone()
        moved[token_id] += movement * spread / 2
        moved[chosen] -= movement * spread / 2
        return _choose(moved, progress) == token_id

    if chosen == token_id:
        return 0.0
    high = _LEAST
    while not is_chosen(high):
        high *= 2
        if high > _MOST:
            return math.inf
    low = high / 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_chosen(middle) else (middle, high)
    return high


def _choose(logits: torch.Tensor, progress: Progress) -> int:
    changed = Penalties(progress).apply(logits)
    return choose_token(changed, progress.work.sampling, position=progress.position)
