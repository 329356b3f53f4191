"""What every estimator must do; subclass it in a test module and say how to make yours."""

from __future__ import annotations

import json

import numpy as np

from pilotlight.estimators.calibration import Measurement
from pilotlight.estimators.interface import Estimator
from pilotlight.estimators.start_times import Quantile
from pilotlight.estimators.testing.view_case import GIGABYTE, StaticView, ViewCase


class EstimatorContract:
    """Shows an estimator one small cluster before and after it has learned."""

    def make_estimator(self) -> Estimator:
        """Return a new instance of the estimator under test."""
        raise NotImplementedError

    def test_a_start_is_finite_exactly_where_a_copy_lies(self) -> None:
        """Model 1 lies on the first node only."""
        total = self._totals(self.make_estimator())

        assert np.isfinite(total).tolist() == [[True, True], [True, False]]

    def test_the_bad_case_is_no_better_than_the_usual_one(self) -> None:
        """Also after measurements that scatter."""
        estimator = self._experienced()
        view = _view()

        times = estimator.start_times(view, np.arange(2), np.arange(2))

        assert (times.seconds[Quantile.P90] >= times.seconds[Quantile.P50]).all()
        median, bad = estimator.bytes_per_second(view)
        assert (bad <= median).all()

    def test_a_slower_disk_makes_a_longer_start(self) -> None:
        """The measured starts took four seconds for each gigabyte; the probe said one."""
        before, after = self._totals(self.make_estimator()), self._totals(self._experienced())

        assert after[0, 0] > before[0, 0]

    def test_equal_measurements_make_equal_estimates(self) -> None:
        """No clock, no randomness."""
        assert np.array_equal(self._totals(self._experienced()), self._totals(self._experienced()))

    def test_lessons_carry_over_all_that_was_learned(self) -> None:
        """Through JSON, as a recording's checkpoint does."""
        teacher, pupil = self._experienced(), self.make_estimator()

        pupil.take_up(json.loads(json.dumps(teacher.lessons())))

        assert np.array_equal(self._totals(pupil), self._totals(teacher))
        teacher.observe(_measurement(seconds=2.0))
        pupil.observe(_measurement(seconds=2.0))
        assert np.array_equal(self._totals(pupil), self._totals(teacher))

    def test_nonsense_teaches_nothing_that_breaks(self) -> None:
        """A node may report whatever it likes."""
        estimator = self.make_estimator()
        for seconds in (float("nan"), float("inf"), 0.0, -1.0, 1e-320, 1e308):
            estimator.observe(_measurement(seconds=seconds))

        assert np.isfinite(self._totals(estimator)[0, 0])
        json.dumps(estimator.lessons(), allow_nan=False)

    def _experienced(self) -> Estimator:
        estimator = self.make_estimator()
        for seconds in (3.0, 4.0, 5.0, 4.0, 4.0):
            estimator.observe(_measurement(seconds=seconds))
        return estimator

    def _totals(self, estimator: Estimator) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return estimator.start_times(_view(), np.arange(2), np.arange(2)).total()


def _view() -> StaticView:
    case = ViewCase()
    here_and_there, here = case.model(), case.model()
    case.node(ssd=[here_and_there, here])
    case.node(ssd=[here_and_there])
    return case.view()


def _measurement(*, seconds: float) -> Measurement:
    return Measurement(
        model="model-0",
        node="node-0",
        engine="timed",
        channel="disk-of-node-0",
        size_bytes=GIGABYTE,
        bytes_read=GIGABYTE,
        transfer_seconds=seconds,
        worker_seconds=seconds,
        bind_seconds=seconds,
        prefill_seconds=seconds,
    )
