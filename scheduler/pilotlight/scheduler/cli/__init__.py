"""The command `pilotlight`; its verbs are entry points of group `pilotlight.commands`."""

from __future__ import annotations

from pilotlight.scheduler.cli.program import main

__all__ = ["main"]
