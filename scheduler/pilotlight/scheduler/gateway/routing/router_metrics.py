"""The router's gauges, read when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pilotlight.scheduler.gateway.routing.router import Router


class RouterCollector(Collector):
    """How many requests wait and run, by model."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges as they are now."""
        waiting = GaugeMetricFamily(
            "pilotlight_requests_waiting", "Requests without a place.", labels=["model"]
        )
        running = GaugeMetricFamily(
            "pilotlight_requests_running", "Requests at a replica.", labels=["model"]
        )
        for model, (n_waiting, n_running) in sorted(self._router.counts().items()):
            waiting.add_metric([model], n_waiting)
            running.add_metric([model], n_running)
        yield waiting
        yield running
