"""The metrics of the controller and of nodes, from the collectors themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from tables import code, table

from pilotlight.scheduler.driver.metrics import DriverMetrics
from pilotlight.scheduler.gateway.metrics import GatewayMetrics
from pilotlight.scheduler.gateway.routing.router_metrics import RouterCollector
from pilotlight.store_node.shell.metrics import Metrics


def markdown(process: str) -> str:
    """Return a table of the metrics of the "controller" or of a "node"."""
    registry = _controller() if process == "controller" else Metrics()._registry
    return table(["Metric", "Type", "Labels", "Meaning"], sorted(_rows(registry)))


class _NoRouter:
    """A router with one model, so that gauges have labels to show."""

    def counts(self) -> dict[str, tuple[int, int]]:
        return {"m": (0, 0)}


def _controller() -> CollectorRegistry:
    registry = CollectorRegistry()
    GatewayMetrics(registry)
    DriverMetrics(registry)
    router: Any = _NoRouter()
    registry.register(RouterCollector(router))
    return registry


def _rows(registry: CollectorRegistry) -> Iterator[tuple[str, str, str, str]]:
    for collector in list(registry._collector_to_names):
        for family in collector.collect():
            name = family.name + ("_total" if family.type == "counter" else "")
            yield code(name), family.type, _labels(collector, family), family.documentation


def _labels(collector: Any, family: Any) -> str:
    names = getattr(collector, "_labelnames", None)
    if names is None:
        names = family.samples[0].labels
    return ", ".join(map(code, names))
