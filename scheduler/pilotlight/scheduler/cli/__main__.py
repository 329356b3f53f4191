"""`python -m pilotlight.scheduler.cli`: the command, where no script is on the PATH."""

from __future__ import annotations

from pilotlight.scheduler.cli import main

main()
