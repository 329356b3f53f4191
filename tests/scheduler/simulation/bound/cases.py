"""Snapshots in which starts are in each other's way, and plans at random."""

from __future__ import annotations

from random import Random

from pilotlight.scheduler.core.plan import AnyStep, Fetch, Plan, Start, StepId, Stop
from pilotlight.scheduler.core.snapshot import Snapshot
from pilotlight.scheduler.testing import Case
from pilotlight.scheduler.testing.case import CaseNode
from pilotlight.scheduler.testing.reports import ENGINE, GIGABYTE
from pilotlight.store_node.protocol import Tier

UNPLACED_SECONDS = 60.0
"""Little more than a start, so that those without a place do not outweigh the others."""


def contended_case(seed: int, *, most_nodes: int = 3, most_models: int = 6) -> Case:
    """Return a few nodes, some of which share a disk, and several requests for most models."""
    draw = Random(seed)
    case = Case()
    models = [f"model-{row}" for row in range(draw.randint(2, most_models))]
    for model in models:
        case.model(
            model,
            size_bytes=draw.randint(1, 40) * GIGABYTE // 4,
            devices=draw.choice([1, 1, 1, 2]),
            max_replicas=draw.choice([1, 2, 4]),
            concurrency=draw.choice([1, 1, 2, 4]),
        )
    for _ in range(draw.randint(1, most_nodes)):
        _add_node(case, models, draw)
    for model in models:
        if draw.random() < 0.9:
            case.requests(model, draw.randint(1, 4))
    return case


def _add_node(case: Case, models: list[str], draw: Random) -> None:
    held = [model for model in models if draw.random() < 0.8]
    devices = draw.randint(1, 4)
    node = case.node(
        devices=devices,
        holds=held,
        dram=[model for model in held if draw.random() < 0.15],
        channel=draw.choice(["", "", "shared"]),
        bytes_per_second=draw.choice([0.5, 1.0, 2.0]) * GIGABYTE,
        warm_workers={ENGINE: draw.choice([0, 4])},
    )
    for model in held:
        needed = next(each.devices for name, each in case.state.models.items() if name == model)
        if draw.random() < 0.3 and needed <= devices:
            devices -= needed
            case.replica(model, node, idle_seconds=5.0)
    _load_something(case, held, node, draw)


def _load_something(case: Case, held: list[str], node: CaseNode, draw: Random) -> None:
    if held and draw.random() < 0.3:
        case.load(draw.choice(held), node, left_bytes=draw.randint(1, GIGABYTE // 4))


def random_plan(snapshot: Snapshot, draw: Random) -> Plan:
    """Return starts, fetches and stops of idle replicas, in any order."""
    models, nodes = snapshot.model_ids, snapshot.node_ids
    steps: list[AnyStep] = []
    for row, replica in enumerate(snapshot.replica_ids):
        if snapshot.replica_idle_since[row] >= 0.0 and draw.random() < 0.7:
            steps.append(Stop(id=StepId(f"stop-{row}"), replica=replica))
    for number in range(draw.randint(1, 2 * len(models))):
        model, node = draw.choice(models), draw.choice(nodes)
        if draw.random() < 0.2:
            steps.append(Fetch(id=StepId(f"fetch-{number}"), model=model, node=node))
        steps.append(Start(id=StepId(f"start-{number}"), model=model, node=node, tier=Tier.SSD))
    if draw.random() < 0.5:
        draw.shuffle(steps)
    return Plan(steps=tuple(steps))
