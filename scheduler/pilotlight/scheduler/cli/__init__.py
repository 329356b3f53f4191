"""The command `pilotlight`; its verbs are entry points of group `pilotlight.commands`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run `pilotlight` and end this process with its exit code."""
    try:
        from pilotlight.scheduler.cli.program import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()
