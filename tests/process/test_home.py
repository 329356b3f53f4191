from __future__ import annotations

from pathlib import Path

from pilotlight.process.home import home_directory


def test_the_variable_wins() -> None:
    assert home_directory({"PILOTLIGHT_HOME": "/data/pilotlight"}) == Path("/data/pilotlight")


def test_the_default_lies_in_the_home_directory() -> None:
    assert home_directory({}) == Path.home() / ".pilotlight"
