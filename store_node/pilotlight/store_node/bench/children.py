"""The bench's child processes, which are modules of this package."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from pilotlight.process.bench.children import Child, python_command


def running(
    module: str, *arguments: str, environ: Mapping[str, str]
) -> AbstractAsyncContextManager[Child]:
    """Run `python -m pilotlight.store_node.bench.MODULE PARENT_PID ARGUMENTS` in the block."""
    command = python_command(f"{__package__}.{module}", *arguments)
    return Child.running(module, command, environ=environ)
