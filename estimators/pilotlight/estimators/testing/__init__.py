"""What estimators are tested by, ours and others'."""

from __future__ import annotations

from pilotlight.estimators.testing.estimator_contract import EstimatorContract
from pilotlight.estimators.testing.view_case import StaticView, ViewCase

__all__ = ["EstimatorContract", "StaticView", "ViewCase"]
