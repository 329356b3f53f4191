"""Recordings of simulated clusters, as a controller writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pilotlight.scheduler.core.events import AnyEvent
from pilotlight.scheduler.core.recording import Header, encode_entry, encode_header
from pilotlight.scheduler.policies import ServerlessLLM
from pilotlight.scheduler.simulation.runs import prepare
from pilotlight.scheduler.simulation.scenarios import load_scenario


def record_quick(file: Path, changes: Mapping[str, object], *, n_events: int | None = None) -> None:
    """Record the scenario `quick` with other values, all of it or only its first events."""
    built = load_scenario("quick", changes=changes).build(1)
    lines = [encode_header(Header(package_version="1", policy="p", began_at=0.0, began_now=0.0))]

    def note(now: float, event: AnyEvent) -> None:
        lines.append(encode_entry(len(lines) - 1, now, event))

    simulation = prepare(built, ServerlessLLM(), on_event=note)
    simulation.feed(built.arrivals)
    simulation.run()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"".join(lines[:n_events]))
