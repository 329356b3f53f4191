"""Engines that do what no engine should."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pilotlight.store_node.engines.engine import Emission, Work, WorkRefused

Change = Callable[[Emission], Emission]


class Meddled:
    """An engine whose emissions are changed, and that counts who runs."""

    def __init__(self, engine: Any, change: Change = lambda emission: emission) -> None:
        self._engine = engine
        self._change = change
        self._running: set[str] = set()
        self.most_at_once = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @property
    def n_running(self) -> int:
        return len(self._running)

    def admit(self, work: Work) -> None:
        self._engine.admit(work)
        self._running.add(work.request_id)
        self.most_at_once = max(self.most_at_once, len(self._running))

    def cancel(self, request_id: Any) -> None:
        self._engine.cancel(request_id)
        self._running.discard(request_id)

    def step(self) -> Sequence[Emission]:
        emissions = [self._change(each) for each in self._engine.step()]
        self._running -= {each.request_id for each in emissions if each.finish_reason}
        return emissions


class Refusing(Meddled):
    """An engine that takes nobody."""

    def admit(self, work: Work) -> None:
        raise WorkRefused("full", "no room, ever")


def other_token(emission: Emission) -> Emission:
    """Return an emission whose last token is another one."""
    *ids, last = emission.token_ids
    return replace(emission, token_ids=(*ids, last + 1))
