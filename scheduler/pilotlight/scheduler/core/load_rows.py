"""The snapshot's rows of loads: those that nodes report, and those that starts will begin."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import numpy as np

from pilotlight.scheduler.core.snapshot import read_only
from pilotlight.scheduler.core.tables import Columns

Load = tuple[int, int, int, int]
"""The rows of its model, its node and its channel, and the bytes that are left."""

_NAMES = ("load_model", "load_node", "load_channel", "load_left_bytes")


class LoadRows:
    """Loads by node: reported ones in the order of nodes, then starts in that of replicas."""

    def __init__(self) -> None:
        self._reported: dict[int, list[Load]] = {}
        self._to_come: dict[int, list[tuple[int, Load]]] = {}
        self._published: Columns | None = None

    def put(self, node: int, reported: list[Load], to_come: list[tuple[int, Load]]) -> None:
        """Set a node's loads; those to come with the places of the replicas that begin them."""
        is_same = self._reported.get(node, []) == reported
        if is_same and self._to_come.get(node, []) == to_come:
            return
        self._reported.pop(node, None)
        self._to_come.pop(node, None)
        if reported:
            self._reported[node] = reported
        if to_come:
            self._to_come[node] = to_come
        self._published = None

    def publish(self) -> Columns:
        """Return the columns."""
        if self._published is None:
            reported = chain.from_iterable(self._reported[node] for node in sorted(self._reported))
            to_come = sorted(chain.from_iterable(self._to_come.values()))
            self._published = _columns([*reported, *(load for _, load in to_come)])
        return self._published


def _columns(loads: Iterable[Load]) -> Columns:
    rows = np.array(list(loads), np.int64).reshape(-1, len(_NAMES))
    columns = np.ascontiguousarray(rows.T)
    return {name: read_only(column) for name, column in zip(_NAMES, columns, strict=True)}
