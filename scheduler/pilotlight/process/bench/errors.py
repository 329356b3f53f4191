"""Why a bench can't be run."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from pilotlight.process.errors import ProcessError


class BenchFailed(ProcessError, RuntimeError):
    """Something that is measured, or measures, did not do what it should."""


@contextmanager
def named(name: str) -> Generator[None]:
    """Have failures of the block say what was being measured."""
    try:
        yield
    except BenchFailed as exc:
        raise BenchFailed(f"{name}: {exc}") from exc
