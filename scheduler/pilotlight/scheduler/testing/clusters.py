"""Clusters drawn at random, as a policy may meet them."""

from __future__ import annotations

from random import Random

from pilotlight.scheduler.testing.case import Case, CaseNode
from pilotlight.scheduler.testing.reports import ENGINE, GIGABYTE
from pilotlight.store_node.protocol import ReplicaState


def random_case(seed: int, *, most_nodes: int = 5, most_models: int = 6) -> Case:
    """Return a cluster of a few nodes and models, some busy, some broken, some short of devices."""
    draw = Random(seed)
    case = Case()
    models = [f"model-{row}" for row in range(draw.randint(1, most_models))]
    for model in models:
        case.model(
            model,
            size_bytes=draw.randint(1, 40) * GIGABYTE // 4,
            devices=draw.choice([1, 1, 1, 2]),
            min_replicas=draw.choice([0, 0, 0, 1]),
            max_replicas=draw.choice([1, 1, 2, 4]),
            concurrency=draw.choice([0, 1, 4]),
            priority=draw.choice([0, 0, 1]),
            keep_alive_seconds=draw.choice([None, 0.0, 30.0]),
        )
    for _ in range(draw.randint(0, most_nodes)):
        _add_node(case, models, draw)
    for model in models:
        if draw.random() < 0.7:
            case.requests(model, draw.randint(1, 6), waited_seconds=draw.uniform(0.0, 20.0))
    return case


def _add_node(case: Case, models: list[str], draw: Random) -> None:
    held = [model for model in models if draw.random() < 0.7]
    devices = draw.randint(1, 4)
    node = case.node(
        devices=devices,
        holds=held,
        dram=[model for model in held if draw.random() < 0.3],
        channel=draw.choice(["", "", "shared-disk"]),
        bytes_per_second=draw.choice([0.5, 1.0, 4.0]) * GIGABYTE,
        engines=draw.choice([[ENGINE], [ENGINE], ["other"]]),
        warm_workers={ENGINE: draw.randint(0, 2)},
        is_up=draw.random() < 0.9,
    )
    for model in held:
        devices = _use_node(case, node, model, devices, draw)


def _use_node(case: Case, node: CaseNode, model: str, devices: int, draw: Random) -> int:
    """Let a model run, load or fail on a node; return the devices that are left."""
    needed = next(known.devices for name, known in case.state.models.items() if name == model)
    fate = draw.choice(["idle", "busy", "starting", "failed", "loading", "", ""])
    if fate == "failed":
        case.failed(model, node, times=draw.randint(1, 4), seconds_left=draw.uniform(-1.0, 5.0))
    elif fate == "loading":
        case.load(model, node, left_bytes=draw.randint(1, GIGABYTE // 4))
    elif fate and needed <= devices:
        case.replica(
            model,
            node,
            state=ReplicaState.STARTING if fate == "starting" else ReplicaState.READY,
            idle_seconds=draw.uniform(0.0, 60.0) if fate == "idle" else None,
            is_stopping=draw.random() < 0.1,
        )
        return devices - needed
    return devices
