"""What is wrong with a scenario."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pilotlight.scheduler.errors import SchedulerError


class InvalidScenario(SchedulerError, ValueError):
    """A scenario that makes no sense: its file, the key, the rule, and what to do."""

    def __init__(self, source: str, rule: str, *, key: str = "", hint: str = "") -> None:
        place = ": ".join(part for part in (source, key) if part)
        super().__init__(f"{place}: {rule}" + (f"; {hint}" if hint else ""))
        self.source = source
        self.key = key
        """As in `models[3].copies.nodes[0]`; empty = it is about the whole file."""
        self.rule = rule
        self.hint = hint

    def __reduce__(self) -> tuple[Callable[[], Exception], tuple[()]]:
        """Runs in other processes fail with it, too."""
        return partial(InvalidScenario, self.source, self.rule, key=self.key, hint=self.hint), ()
