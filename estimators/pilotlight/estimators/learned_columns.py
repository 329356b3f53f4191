"""Columns of what was learned, current after each lesson without being made anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pilotlight.estimators.calibration import Learned, LogNormal
from pilotlight.estimators.view import FloatArray


class LearnedColumn:
    """The median and the bad case of one quantity, for a sequence of keys.

    A lesson changes one row, in a copy: whoever holds `values` keeps what it has.
    """

    def __init__(
        self,
        learned: Learned,
        keys: Sequence[str],
        *,
        bad_case: Callable[[LogNormal], float],
        priors: Iterable[float] | None = None,
        without_key: float | None = None,
    ) -> None:
        """`priors` are believed of keys without a measurement, in their order.

        `without_key` adds a last value, which row -1 finds: of those that have no key.
        """
        self._learned = learned
        self._bad_case = bad_case
        self._rows = {key: row for row, key in enumerate(keys)}
        believed = [None] * len(keys) if priors is None else priors
        known = [learned.get(key, prior=prior) for key, prior in zip(keys, believed, strict=True)]
        tail = [] if without_key is None else [without_key]
        self.values: FloatArray = np.array(
            [[item.p50 for item in known] + tail, [bad_case(item) for item in known] + tail]
        )
        """[quantile, key]."""

    def learn(self, key: str) -> None:
        """Take over what was just learned of a key; others than the column's do not count."""
        row = self._rows.get(key)
        if row is None:
            return
        known = self._learned.get(key)
        self.values = self.values.copy()
        self.values[:, row] = known.p50, self._bad_case(known)
