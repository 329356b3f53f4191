from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from pilotlight.scheduler.gateway.routing.router_metrics import RouterCollector
from pilotlight.scheduler.gateway.routing.testing import RoutingCase


async def test_gauges_say_what_waits_and_what_runs_now(case: RoutingCase) -> None:
    registry = CollectorRegistry()
    registry.register(RouterCollector(case.router))
    case.add("r1", concurrency=2)
    for number in range(5):
        case.ask(f"q{number}")
    await case.settle()

    text = generate_latest(registry).decode()

    assert 'pilotlight_requests_waiting{model="m"} 3.0' in text
    assert 'pilotlight_requests_running{model="m"} 2.0' in text
