"""How many replicas each model wants, and which models nothing can serve."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pilotlight.estimators import Residency
from pilotlight.scheduler.core.plan import Refuse, StepId
from pilotlight.scheduler.core.snapshot import Snapshot

_IS_HELD = int(Residency.SSD | Residency.DRAM)

GIVE_UP_FAILURES = 3
"""Failed starts in a row on every node that could serve a model before its requests are refused."""


def wanted_starts(snapshot: Snapshot) -> list[int]:
    """Return the models to start a replica of, the most urgent first; one row per replica.

    As many as its waiting requests fill, less those that are starting already,
    within its limits. Higher priority goes first, then who waits longest.
    """
    models = np.flatnonzero(snapshot.model_lacking_replicas)
    # No more than the whole cluster could hold, were it empty.
    devices = int(snapshot.node_devices[snapshot.node_is_up].sum()) if models.size else 0
    most = devices // snapshot.model_devices[models]
    lacking = np.minimum(snapshot.model_lacking_replicas[models], most)
    priority, oldest = snapshot.model_priority, snapshot.oldest_arrival
    wanted: list[int] = np.repeat(models, lacking).tolist()
    return sorted(wanted, key=lambda model: (-priority[model], oldest[model]))


def hopeless_models(snapshot: Snapshot) -> Iterator[Refuse]:
    """Yield refusals for models that wait and that nothing can serve as things are."""
    are_alone = (snapshot.waiting > 0) & (snapshot.model_live_replicas == 0)
    for model in np.flatnonzero(are_alone).tolist():
        if reason := _hopeless(snapshot, model):
            yield Refuse(
                id=StepId(f"refuse-{snapshot.model_ids[model]}"),
                model=snapshot.model_ids[model],
                reason=reason,
            )


def _hopeless(snapshot: Snapshot, model: int) -> str:
    """Return why a model can't be served by any node as it is; empty where it can."""
    name = snapshot.model_ids[model]
    holders = np.flatnonzero(snapshot.residency[model] & _IS_HELD)
    if not len(holders):
        return f"no node holds a usable copy of {name}{_faults(snapshot, model)}"
    up = holders[snapshot.node_is_up[holders]]
    if not len(up):
        names = ", ".join(snapshot.node_ids[node] for node in holders.tolist())
        return f"its only copies lie on {names}: down"
    engine = int(snapshot.model_engine[model])
    able = up[snapshot.node_has_engine[engine, up]]
    if not len(able):
        return f"no node that holds it has the engine {snapshot.engine_ids[engine]}"
    needed, most = int(snapshot.model_devices[model]), int(snapshot.node_devices[able].max())
    if needed > most:
        return f"it needs {needed} devices; no node that holds it has more than {most}"
    large = able[snapshot.node_devices[able] >= needed]
    return _given_up(snapshot, model, large.tolist())


def _faults(snapshot: Snapshot, model: int) -> str:
    """Return what is wrong with the copies that there are, and which nodes can't be asked."""
    found = [
        f"{snapshot.node_ids[node]} says: {reason}"
        for of, node, reason in zip(
            snapshot.fault_model.tolist(),
            snapshot.fault_node.tolist(),
            snapshot.fault_reasons,
            strict=True,
        )
        if of == model
    ]
    down = [snapshot.node_ids[node] for node in np.flatnonzero(~snapshot.node_is_up).tolist()]
    return "; ".join(["", *found, *(f"{node} is down" for node in down)])


def _given_up(snapshot: Snapshot, model: int, nodes: list[int]) -> str:
    is_over = (snapshot.back_off_failures >= GIVE_UP_FAILURES) | snapshot.back_off_is_final
    is_over &= (snapshot.back_off_model == model) & (snapshot.back_off_until > snapshot.now)
    rows = {int(snapshot.back_off_node[row]): row for row in np.flatnonzero(is_over).tolist()}
    if not all(node in rows for node in nodes):
        return ""
    first = rows[nodes[0]]
    times = "" if snapshot.back_off_is_final[first] else f" {GIVE_UP_FAILURES} times"
    return f"its start failed{times} on every node: {snapshot.back_off_reasons[first]}"
