"""What is wrong with a workload."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pilotlight.scheduler.errors import SchedulerError


class InvalidWorkload(SchedulerError, ValueError):
    """A workload that makes no sense: the key or file at fault, the rule, and what to do."""

    def __init__(self, place: str, rule: str, *, hint: str = "") -> None:
        super().__init__(f"{place}: {rule}" + (f"; {hint}" if hint else ""))
        self.place = place
        self.rule = rule
        self.hint = hint

    def __reduce__(self) -> tuple[Callable[[], Exception], tuple[()]]:
        """Runs in other processes fail with it, too."""
        return partial(InvalidWorkload, self.place, self.rule, hint=self.hint), ()
