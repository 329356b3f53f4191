"""Choosing the next token: a function of logits, request and position, and of nothing else."""

from __future__ import annotations

import numpy as np
import torch

from pilotlight.store_node.protocol.values import Sampling, TokenLogprobs

# 52 bits and a half lie strictly between 0 and 1 in a float64, on all platforms.
_USED_BITS = 52
_UNIT = 0.5**_USED_BITS

# Sorting a whole vocabulary takes milliseconds, and a sure model needs few tokens.
_FEW_TOKENS = 128


def choose_token(logits: torch.Tensor, sampling: Sampling, *, position: int) -> int:
    """Choose from one row of logits the token for `position` of prompt and tokens together.

    Temperature 0 takes the most likely token. Otherwise top_k and then top_p say
    who takes part, each gets its logit divided by the temperature plus Gumbel
    noise keyed on (seed, position, token id), and the highest wins, which draws
    from the softmax. So a request that is resumed elsewhere goes on as if it had
    stayed. The noise belongs to the token, not to its rank: where a prefill rounds
    otherwise than decoding did, only two scores that all but tie can change places,
    whereas a cumulative distribution would change with every pair of neighbours.
    """
    if sampling.temperature == 0:
        return int(logits.argmax())
    # Dividing what is at most 0 can't overflow to more, however small the temperature.
    wide = logits.double()
    scores = (wide - wide.max()) / sampling.temperature
    noise = gumbel_noise(sampling.seed, position, scores.numel())
    candidates = _candidates(scores, sampling)
    if candidates is None:
        return int((scores + noise).argmax())
    return int(candidates[(scores[candidates] + noise[candidates]).argmax()])


def gumbel_noise(seed: int, position: int, n_tokens: int) -> torch.Tensor:
    """Return a number for each token that depends on nothing but seed, position and token.

    Computed by a counter-based generator whose raw stream is the same everywhere.
    """
    generator = np.random.Philox(key=np.array([seed % 2**64, position], dtype=np.uint64))
    bits = generator.random_raw(n_tokens) >> np.uint64(64 - _USED_BITS)
    uniform = torch.as_tensor((bits + 0.5) * _UNIT)
    return -(-uniform.log()).log()


def _candidates(scores: torch.Tensor, sampling: Sampling) -> torch.Tensor | None:
    """Return the ids that may be drawn; None for all."""
    ids: torch.Tensor | None = None
    if 0 < sampling.top_k < scores.numel():
        scores, ids = scores.topk(sampling.top_k)
    if sampling.top_p < 1:
        nucleus = _nucleus(scores, sampling.top_p)
        ids = nucleus if ids is None else ids[nucleus]
    return ids


def _nucleus(scores: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return the fewest most likely tokens that make up `top_p`, at least one."""
    total = scores.logsumexp(0)
    n_sorted = min(_FEW_TOKENS, scores.numel())
    while True:
        ordered, ids = scores.topk(n_sorted)
        probabilities = (ordered - total).exp()
        before = probabilities.cumsum(0) - probabilities
        if n_sorted == scores.numel() or float(before[-1]) >= top_p:
            return ids[before < top_p]
        n_sorted = min(n_sorted * _FEW_TOKENS, scores.numel())


def log_probabilities(logits: torch.Tensor, token_id: int, *, n_top: int) -> TokenLogprobs:
    """Return natural logarithms under the model's own distribution, before any sampling rule."""
    logprobs = logits.log_softmax(0)
    values, ids = logprobs.topk(min(n_top, logprobs.numel()))
    return TokenLogprobs(
        logprob=float(logprobs[token_id]),
        top_ids=tuple(int(token_id) for token_id in ids),
        top_logprobs=tuple(float(value) for value in values),
    )
