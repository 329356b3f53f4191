"""What all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings

# Two cores run many workers in these tests; more threads than that only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a shell runs in the background ignores Ctrl-C, and so would all that these tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples on every machine, however slow; --hypothesis-profile=thorough draws others.
settings.register_profile("same", deadline=None, derandomize=True, database=None)
settings.register_profile("thorough", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("same")

Absent = Callable[[str, str], NoReturn]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests that take long, too")


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    reasons: dict[str, str] = {}
    if not config.getoption("--slow"):
        reasons["slow"] = "takes long; run with --slow"
    if not Path("/dev/nvidiactl").exists():
        reasons["gpu"] = "needs an NVIDIA GPU"
    for item in items:
        for mark in reasons.keys() & {mark.name for mark in item.iter_markers()}:
            item.add_marker(pytest.mark.skip(reason=reasons[mark]))


@pytest.fixture
def absent() -> Absent:
    """Return what a test calls when something it needs is not on this machine.

    It skips with the reason, or fails where PILOTLIGHT_REQUIRE names that thing.
    """

    def tell(name: str, reason: str) -> NoReturn:
        if name in os.environ.get("PILOTLIGHT_REQUIRE", "").replace(",", " ").split():
            pytest.fail(f"{name} is required here: {reason}")
        pytest.skip(f"{name}: {reason}")

    return tell


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("PILOTLIGHT_") and name != "PILOTLIGHT_REQUIRE":
            monkeypatch.delenv(name)
