"""What the controller counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from pilotlight.scheduler.core.actions import Publish

_FAST_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)


class DriverMetrics:
    """Decisions, transactions and events."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.decision_seconds = Histogram(
            "pilotlight_decision_seconds",
            "Time that the policy took for one plan.",
            buckets=_FAST_SECONDS,
            registry=registry,
        )
        self.persist_seconds = Histogram(
            "pilotlight_state_write_seconds",
            "Time that one transaction on the SQL state took.",
            buckets=_FAST_SECONDS,
            registry=registry,
        )
        self._events = Counter(
            "pilotlight_cluster_events_total",
            "What happened in the cluster, by kind.",
            ["kind"],
            registry=registry,
        )

    def count(self, event: Publish) -> None:
        """Count one event."""
        self._events.labels(kind=event.kind).inc()
