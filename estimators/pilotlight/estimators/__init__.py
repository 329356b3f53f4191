"""Says how long each possible start takes, and learns from those that ran.

`StartEstimator` turns a view of the cluster into columns of `StartTimes` and
into a `Timeline`, the one evaluator of what a plan costs.
"""

from __future__ import annotations

from pilotlight.estimators.calibration import LogNormal, Measurement
from pilotlight.estimators.estimator import Priors, StartEstimator
from pilotlight.estimators.interface import Estimator
from pilotlight.estimators.start_times import Phase, Quantile, StartTimes
from pilotlight.estimators.timeline import StartFinish, Timeline
from pilotlight.estimators.topology import Topology
from pilotlight.estimators.view import ClusterView, Residency

__all__ = [
    "ClusterView",
    "Estimator",
    "LogNormal",
    "Measurement",
    "Phase",
    "Priors",
    "Quantile",
    "Residency",
    "StartEstimator",
    "StartFinish",
    "StartTimes",
    "Timeline",
    "Topology",
]
