"""What Prometheus can read of a node; nothing listens unless the settings say so."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from pilotlight.process.ports import parse_address, require_free
from pilotlight.store_node.protocol import NodeUpdate, StartOutcome

# From a small model out of memory to a large one off a slow disk.
_START_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 180.0)
_PHASES = ("queue", "transfer", "worker", "bind")


class Metrics:
    """A node's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._starts = Histogram(
            "pilotlight_actuation_seconds",
            "From the start command to READY.",
            ["tier"],
            buckets=_START_BUCKETS,
            registry=self._registry,
        )
        self._phases = Histogram(
            "pilotlight_start_phase_seconds",
            "Exclusive segments of a start's critical path.",
            ["phase", "tier"],
            buckets=_START_BUCKETS,
            registry=self._registry,
        )
        self._failures = Counter(
            "pilotlight_replica_failures",
            "Replicas that ended against their will.",
            ["code"],
            registry=self._registry,
        )
        self._read = Counter(
            "pilotlight_load_read_bytes",
            "Bytes that starts have read from disks.",
            registry=self._registry,
        )
        self._pool = Gauge(
            "pilotlight_chunk_pool_bytes",
            "The accounts of the chunk pool.",
            ["account"],
            registry=self._registry,
        )
        self._running = Gauge(
            "pilotlight_requests_running", "Requests that run.", registry=self._registry
        )
        self._warm = Gauge(
            "pilotlight_warm_workers", "Workers kept ready.", ["engine"], registry=self._registry
        )
        self._connected = Gauge(
            "pilotlight_controller_connected", "1 in a session.", registry=self._registry
        )

    def serve(self, listen: str) -> None:
        """Answer scrapes at HOST:PORT, in a thread of its own.

        Raises:
            AddressUnavailable, InvalidAddress: as they say.
        """
        address = parse_address(listen)
        require_free(address)
        start_http_server(address.port, addr=address.host, registry=self._registry)

    def count_start(self, outcome: StartOutcome) -> None:
        """Count a start that has succeeded."""
        seconds = {phase: getattr(outcome, f"{phase}_seconds") for phase in _PHASES}
        self._starts.labels(outcome.tier).observe(sum(seconds.values()))
        for phase, value in seconds.items():
            self._phases.labels(phase, outcome.tier).observe(value)
        self._read.inc(outcome.bytes_read)

    def count_failure(self, code: str) -> None:
        """Count a replica that has failed."""
        self._failures.labels(code).inc()

    def show(self, heartbeat: NodeUpdate, *, is_connected: bool) -> None:
        """Show what a heartbeat says."""
        self._connected.set(is_connected)
        self._running.set(sum(each.running for each in heartbeat.summaries))
        for engine, n_workers in heartbeat.warm_workers.items():
            self._warm.labels(engine).set(n_workers)
        accounts = heartbeat.accounts
        if accounts is not None:
            self._pool.labels("free").set(accounts.free_bytes)
            self._pool.labels("cached").set(accounts.cached_bytes)
            self._pool.labels("bound").set(accounts.bound_bytes)
