from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PILOTLIGHT_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "state.db"


def test_upgrades_the_state_at_home_once(state: Path, pilotlight: Run) -> None:
    assert pilotlight("db", "upgrade") == (0, f"{state}: upgraded from nothing to 0002\n", "")
    assert pilotlight("db", "upgrade") == (0, f"{state} is at schema 0002 already\n", "")


def test_shows_the_schema_without_making_one(state: Path, pilotlight: Run) -> None:
    _, out, _ = pilotlight("db", "current", "-o", "json")

    assert json.loads(out) == [
        {"state": str(state), "schema": None, "expected": "0002", "is_current": False}
    ]
    assert not state.exists()


def test_another_state_may_be_named(state: Path, pilotlight: Run, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'other.db'}"

    assert pilotlight("db", "upgrade", "--url", url)[0] == 0
    assert pilotlight("db", "current", "--url", url)[1].split()[-4:] == [
        *(str(tmp_path / "other.db"), "0002", "0002", "True")
    ]
    assert not state.exists()


def test_the_state_is_the_one_that_a_controller_with_the_same_settings_uses(
    state: Path, pilotlight: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "controller.yaml"
    header = "apiVersion: pilotlight/v1\nkind: ControllerConfig\n"
    config.write_text(f"{header}home: {tmp_path / 'elsewhere'}\n")
    monkeypatch.delenv("PILOTLIGHT_HOME")

    assert pilotlight("db", "upgrade", "--config", str(config))[0] == 0
    assert (tmp_path / "elsewhere" / "state.db").exists()

    monkeypatch.setenv("PILOTLIGHT_HOME", str(state.parent))
    monkeypatch.setenv("PILOTLIGHT_DATABASE", f"sqlite:///{tmp_path / 'other.db'}")
    assert pilotlight("db", "upgrade")[0] == 0
    assert (tmp_path / "other.db").exists()
    assert not state.exists()


def test_a_file_that_is_no_state_is_one_line(state: Path, pilotlight: Run) -> None:
    state.parent.mkdir()
    state.write_text("something else " * 100)

    for verb in ("upgrade", "current"):
        assert pilotlight("db", verb) == (
            1,
            "",
            f"Error: the state {state}: it is not a Pilotlight database\n",
        )


def test_a_url_that_is_none_is_one_line(state: Path, pilotlight: Run) -> None:
    code, _, err = pilotlight("db", "current", "--url", "state.db")

    assert (code, err.count("\n")) == (1, 1)
    assert "sqlite:////path/state.db" in err
