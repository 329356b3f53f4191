from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from pilotlight.native_loader.bench import peers
from pilotlight.native_loader.bench.peer_loads import LOADERS
from pilotlight.native_loader.bench.peers import PACKAGES, PEERS, Environment, install
from pilotlight.native_loader.bench.recipes import Layout
from pilotlight.process.progress import StepProgress


@pytest.fixture
def progress() -> StepProgress:
    return StepProgress("peers", 1, stream=io.StringIO())


def test_every_peer_can_be_loaded_with_and_is_installed() -> None:
    assert {peer.name for peer in PEERS} == set(LOADERS)
    assert {peer.package for peer in PEERS} <= set(PACKAGES)
    assert "torch==2.13.0" in peers.CONSTRAINTS.read_text().splitlines()


def test_only_peers_that_are_there_are_measured() -> None:
    some = Environment(python="python", versions={"torch": "2", "numpy": "2", "safetensors": "1"})

    assert [peer.name for peer in some.peers] == ["safetensors", "torch", "torch-mmap"]
    assert some.has("safetensors")
    assert not some.has("tensorizer")


def test_without_torch_there_is_no_peer() -> None:
    assert Environment(python="python", versions={"safetensors": "1"}).peers == []


async def test_this_process_s_own_environment_has_what_it_has() -> None:
    own = await peers.own_environment()

    assert own.python == sys.executable
    assert own.has("torch")
    assert own.versions.keys() | own.missing.keys() == set(PACKAGES)


def made_at(environment: Environment) -> int:
    return Path(environment.python).lstat().st_mtime_ns


@pytest.mark.integration
async def test_a_package_that_can_t_be_had_is_missing_and_why(
    tmp_path: Path, progress: StepProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "PACKAGES", ("torch", "fastsafetensors"))
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    made = await install(tmp_path / "peers", progress)

    assert made.versions == {}
    assert made.missing.keys() == {"torch", "fastsafetensors"}
    for package, why in made.missing.items():
        assert why.startswith("ERROR: ")
        assert package in why
    # The environment itself is whole, and is used again.
    before = made_at(made)
    assert (await install(tmp_path / "peers", progress)).python == made.python
    assert made_at(made) == before


def test_peers_read_what_their_users_have() -> None:
    layouts = {peer.name: peer.layouts[0] for peer in PEERS}

    assert layouts["torch"] is Layout.PICKLED
    assert layouts["tensorizer"] is Layout.TENSORIZED
    assert layouts["runai"] is Layout.SINGLE
