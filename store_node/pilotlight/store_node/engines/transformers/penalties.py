"""What a request asks for that makes tokens likelier or less likely, by what came before."""

from __future__ import annotations

from collections import Counter

import torch

from pilotlight.store_node.engines.progress import Progress


class Penalties:
    """The logit bias and the penalties of one request.

    In this order: `logit_bias` is added; `repetition_penalty` divides positive
    logits, and multiplies others, of tokens that prompt or text hold; of the
    text's tokens `presence_penalty` is subtracted once, `frequency_penalty` as
    often as they occur. All follow from the request and its tokens so far, so
    that a resumed request has the same.
    """

    def __init__(self, progress: Progress) -> None:
        """Follow a request's tokens from now on."""
        sampling = progress.work.sampling
        self._progress = progress
        self._bias = dict(sampling.logit_bias)
        self._presence = sampling.presence_penalty
        self._frequency = sampling.frequency_penalty
        self._repetition = sampling.repetition_penalty or 1.0
        self._n_prompt = len(progress.work.prompt_ids)
        self._seen: set[int] = set()
        self._counts: Counter[int] = Counter()
        self._n_counted = 0

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits [vocabulary] as they are to be chosen from."""
        changed = logits
        if self._bias:
            ids = torch.tensor(list(self._bias), device=logits.device)
            changed = changed.index_add(0, ids, _tensor(list(self._bias.values()), logits))
        if self._repetition == 1 and not self._presence and not self._frequency:
            return changed
        self._count()
        if self._repetition != 1 and self._seen:
            ids = torch.tensor(list(self._seen), device=logits.device)
            values = changed[ids]
            values = torch.where(values > 0, values / self._repetition, values * self._repetition)
            changed = changed.index_copy(0, ids, values)
        if (self._presence or self._frequency) and self._counts:
            ids = torch.tensor(list(self._counts), device=logits.device)
            costs = [self._presence + self._frequency * n for n in self._counts.values()]
            changed = changed.index_add(0, ids, _tensor(costs, logits), alpha=-1)
        return changed

    def _count(self) -> None:
        """Take note of the tokens that have come since the last time."""
        ids = self._progress.ids
        new = ids[self._n_counted :]
        self._seen.update(new)
        self._counts.update(new[max(0, self._n_prompt - self._n_counted) :])
        self._n_counted = len(ids)


def _tensor(values: list[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)
