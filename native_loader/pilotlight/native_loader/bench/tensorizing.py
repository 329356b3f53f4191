"""Writes checkpoints as tensorizer does.

It is run as a file by the interpreter that has tensorizer: `python -I tensorizing.py
PARENT_PID PAIRS`, which are names of safetensors files and of those to be made.
"""
# pyright: basic, reportMissingImports=false
# tensorizer comes without types.

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def tensorize(source: str, target: str) -> None:
    """Write one file."""
    from safetensors.torch import load_file
    from tensorizer import TensorSerializer

    Path(target).parent.mkdir(parents=True, exist_ok=True)
    serializer: Any = TensorSerializer(target)
    serializer.write_state_dict(load_file(source))
    serializer.close()


def main() -> None:
    """Write what the command line names, then say so."""
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        for source, target in json.loads(sys.argv[2]):
            tensorize(source, target)
        answer = {"type": "Made"}
    # The outermost loop: whatever it is, whoever waits gets an answer.
    except Exception as error:
        answer = {"mishap": f"{type(error).__name__}: {error}".partition("\n")[0]}
    os.write(out, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
