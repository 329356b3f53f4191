"""Public traces of workloads: read row by row, every row checked.

The project ships none of them. `catalogue` says which there are, where they are
published, and reads whichever of them a file is.
"""

from __future__ import annotations

from pilotlight.scheduler.errors import BrokenTrace
from pilotlight.scheduler.traces.catalogue import FORMATS, TraceFormat, detect
from pilotlight.scheduler.traces.files import TraceFile
from pilotlight.scheduler.traces.records import (
    Burst,
    FunctionDay,
    Lengths,
    Profile,
    Record,
    TracedRequest,
)

__all__ = [
    "FORMATS",
    "BrokenTrace",
    "Burst",
    "FunctionDay",
    "Lengths",
    "Profile",
    "Record",
    "TraceFile",
    "TraceFormat",
    "TracedRequest",
    "detect",
]
