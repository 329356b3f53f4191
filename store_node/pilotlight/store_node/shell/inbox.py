"""Where events come together before the core sees them, one at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import structlog

from pilotlight.store_node.core.events import Event

log = structlog.get_logger(__name__)


class Inbox:
    """Hands events on in order, also those that come up while one is being handled.

    Used from the event loop only. An exception is a defect, after which core and
    world may differ: it is reported, and nothing is handed on any more.
    """

    def __init__(self, *, on_defect: Callable[[Exception], None]) -> None:
        self._on_defect = on_defect
        self._handle: Callable[[Event], None] | None = None
        self._waiting: deque[Event] = deque()
        self._is_handling = False

    def hand_on_to(self, handle: Callable[[Event], None]) -> None:
        """Say who takes events; called once, before the first of them."""
        self._handle = handle

    def post(self, event: Event) -> None:
        """Have an event handled: at once, or after the one that is being handled."""
        self._waiting.append(event)
        if self._is_handling or self._handle is None:
            return
        self._is_handling = True
        try:
            while self._waiting:
                self._handle(self._waiting.popleft())
        except Exception as exc:
            # is_handling stays set, so that nothing more is handled.
            log.exception("defect: the node can't go on")
            self._on_defect(exc)
            raise
        self._is_handling = False
