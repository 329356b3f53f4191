"""A whole run as the bound sees it: who asks when, what a start takes at least, and one pool."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pilotlight.scheduler.simulation.bound.errors import BoundInputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProblem:
    """R requests in the order of arrival, for M models; all times are seconds.

    Every figure that says how long something takes is the least that it can take,
    whatever the policy and the noise: the bound holds for whoever takes longer.

    Raises:
        BoundInputError: when made of columns of other shapes, times that fall, negative or
            endless figures, or models that do not exist.
    """

    arrived_at: Floats
    """[R], never falling."""
    model: Ints
    """[R] rows of the models' columns."""
    prefill_seconds: Floats
    """[R] from a request's place at a replica to its first token."""
    hold_seconds: Floats
    """[R] for which a request keeps its place, its prefill included."""
    model_devices: Ints
    """[M] for each replica."""
    model_concurrency: Ints
    """[M] requests that one replica takes at once."""
    first_start_seconds: Floats
    """[M] from a model's first request to its first replica: its bytes are in nobody's memory."""
    next_start_seconds: Floats
    """[M] for which a start holds its devices: its bytes may be in the memory of its node."""
    is_kept: Bools
    """[M] models that may run without being asked for, as those with a minimum of replicas."""
    n_devices: int
    """Of all nodes together."""

    def __post_init__(self) -> None:
        for rule, holds in self._rules():
            if not holds:
                raise BoundInputError(rule)

    @property
    def n_requests(self) -> int:
        """Return R."""
        return len(self.arrived_at)

    def _rules(self) -> list[tuple[str, bool]]:
        requests = (self.model, self.prefill_seconds, self.hold_seconds)
        models = (self.model_concurrency, self.first_start_seconds, self.next_start_seconds)
        n_requests, n_models = len(self.arrived_at), len(self.model_devices)
        seconds = (self.prefill_seconds, self.hold_seconds, *models[1:])
        rows = self.model
        return [
            ("columns of requests have one length", {len(c) for c in requests} == {n_requests}),
            ("columns of models have one length", {len(c) for c in models} == {n_models}),
            ("there is a flag for each model", len(self.is_kept) == n_models),
            ("times of arrival are finite", bool(np.isfinite(self.arrived_at).all())),
            ("times of arrival never fall", bool((np.diff(self.arrived_at) >= 0.0).all())),
            ("every request names a model", bool(((rows >= 0) & (rows < n_models)).all())),
            ("durations are finite", all(bool(np.isfinite(c).all()) for c in seconds)),
            ("durations are not negative", all(bool((c >= 0.0).all()) for c in seconds)),
            ("a replica has devices", bool((self.model_devices >= 1).all())),
            ("a replica takes requests", bool((self.model_concurrency >= 1).all())),
            ("there are devices", self.n_devices >= 1),
            (
                "no first start is shorter than the next ones",
                bool((self.first_start_seconds >= self.next_start_seconds).all()),
            ),
        ]
