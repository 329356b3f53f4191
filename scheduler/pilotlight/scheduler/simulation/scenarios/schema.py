"""The JSON schema of scenario files, for editors; written by `python -m` this module."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from pilotlight.scheduler.simulation.scenarios.scenario import Scenario

SCHEMA_FILE = Path(__file__).parent / "scenario.schema.json"


def schema() -> dict[str, Any]:
    """Return the schema: of a whole scenario, or of one that is based on another.

    What the latter says is looked at when it is laid over the other one.
    """
    (whole,), definitions = msgspec.json.schema_components(
        [Scenario], ref_template="#/$defs/{name}"
    )
    # A file has its own name, unless it says another.
    definitions["Scenario"]["required"].remove("name")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A scenario of Pilotlight's simulator",
        "anyOf": [
            whole,
            {
                "type": "object",
                "properties": {"based_on": {"type": "string"}},
                "required": ["based_on"],
            },
        ],
        "$defs": definitions,
    }


def schema_text() -> str:
    """Return the schema as the file has it."""
    return json.dumps(schema(), indent=1) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text())
    sys.stdout.write(f"{SCHEMA_FILE}\n")
