"""What is installed from a wheel works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from importlib.metadata import distributions, metadata
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.specifiers import SpecifierSet

CHECKOUT = Path(__file__).resolve().parents[1]

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]


def run(command: Sequence[str | Path], *, cwd: Path) -> str:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, check=False, timeout=380
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(
        [
            *(sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps"),
            *("--no-index", "-w", folder, CHECKOUT),
        ],
        cwd=folder,
    )
    (built,) = folder.glob("pilotlight-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a virtual environment with the wheel; its dependencies are this one's."""
    folder = tmp_path_factory.mktemp("clean")
    run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(
        [
            *(sys.executable, "-m", "pip", "--python", python, "install", "-q"),
            *("--no-deps", "--no-index", wheel),
        ],
        cwd=folder,
    )
    packages = run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'), end='')"], cwd=folder
    )
    # After the environment's own packages; .pth files over there, the checkout's too, don't count.
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()

    assert {name.split("/")[0] for name in names} == {
        "pilotlight",
        f"{wheel.name.split('-cp')[0]}.dist-info",
    }
    assert "pilotlight/__init__.py" not in names
    assert "pilotlight/scheduler/migrations/env.py" in names
    assert "pilotlight/scheduler/migrations/versions/0001_create_state.py" in names
    for component in ("scheduler", "estimators", "store_node", "native_loader", "process"):
        assert f"pilotlight/{component}/py.typed" in names
    assert any(name.startswith("pilotlight/native_loader/_native.") for name in names)
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


def test_all_that_is_pinned_can_be_had_by_the_oldest_python() -> None:
    oldest = "3.11.0"

    wanted = {each.name: each.metadata["Requires-Python"] for each in distributions()}

    assert metadata("pilotlight")["Requires-Python"] == ">=3.11"
    assert {n: w for n, w in wanted.items() if w and not SpecifierSet(w).contains(oldest)} == {}


def test_every_component_is_imported_from_the_wheel(environment: Path, tmp_path: Path) -> None:
    program = (
        "import pilotlight.scheduler, pilotlight.estimators, pilotlight.store_node,"
        " pilotlight.process, pilotlight.native_loader._native as native;"
        "print(*(p.__file__ for p in (pilotlight.scheduler, pilotlight.estimators,"
        " pilotlight.store_node, pilotlight.process, native)), sep='\\n')"
    )

    paths = run([environment / "bin" / "python", "-c", program], cwd=tmp_path).splitlines()

    assert len(paths) == 5
    assert all(path.startswith(f"{environment}/lib/") for path in paths)


def test_the_command_runs_from_another_directory(environment: Path, tmp_path: Path) -> None:
    command = environment / "bin" / "pilotlight"

    assert run([command, "--version"], cwd=tmp_path).startswith("pilotlight ")
    help_text = run([command, "--help"], cwd=tmp_path)
    assert "can't be loaded" not in help_text
    assert "  nodes " in help_text


def test_the_state_is_made_from_the_wheels_migrations(environment: Path, tmp_path: Path) -> None:
    command = environment / "bin" / "pilotlight"
    url = f"sqlite:///{tmp_path / 'state.db'}"

    assert "upgraded from nothing to 0002" in run(
        [command, "db", "upgrade", "--url", url], cwd=tmp_path
    )
    assert run([command, "db", "current", "--url", url], cwd=tmp_path).split()[-1] == "True"
    program = (
        "from pilotlight.scheduler.store import check, migration;"
        f"check({url!r}); print(migration.migrations_directory(), end='')"
    )
    found = run([environment / "bin" / "python", "-c", program], cwd=tmp_path)
    assert found.startswith(f"{environment}/lib/")


@pytest.mark.slow
def test_a_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    run(
        [sys.executable, "-m", "build", "--no-isolation", "--sdist", "-o", tmp_path, CHECKOUT],
        cwd=tmp_path,
    )
    (source,) = tmp_path.glob("pilotlight-*.tar.gz")
    run(
        [
            *(sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps"),
            *("--no-index", "-w", tmp_path, source),
        ],
        cwd=tmp_path,
    )

    (built,) = tmp_path.glob("pilotlight-*.whl")
    with ZipFile(wheel) as expected, ZipFile(built) as found:
        assert sorted(found.namelist()) == sorted(expected.namelist())
