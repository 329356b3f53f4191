"""The loaders that ours is measured beside, in an environment of their own."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pilotlight.native_loader.bench.recipes import Layout
from pilotlight.process.progress import StepProgress

CONSTRAINTS = Path(__file__).with_name("peers.txt")

_INSTALL_SECONDS = 900.0
_DONE = ".installed"
_RETRIES = "2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One way of another library to load a checkpoint."""

    name: str
    package: str
    layouts: Sequence[Layout]
    """Which it reads; the first is the one that its users have."""
    loads_models: bool = True
    loads_adapters: bool = True


_SAFETENSORS = (Layout.SINGLE, Layout.SHARDED)

PEERS: Sequence[Peer] = (
    Peer(name="safetensors", package="safetensors", layouts=_SAFETENSORS),
    Peer(name="torch", package="torch", layouts=(Layout.PICKLED,)),
    Peer(name="torch-mmap", package="torch", layouts=(Layout.PICKLED,)),
    Peer(name="transformers", package="transformers", layouts=_SAFETENSORS, loads_adapters=False),
    Peer(name="runai", package="runai-model-streamer", layouts=_SAFETENSORS),
    Peer(
        name="runai-one-by-one",
        package="runai-model-streamer",
        layouts=_SAFETENSORS,
        loads_models=False,
    ),
    Peer(name="fastsafetensors", package="fastsafetensors", layouts=_SAFETENSORS),
    Peer(name="tensorizer", package="tensorizer", layouts=(Layout.TENSORIZED,)),
)
PACKAGES = tuple(dict.fromkeys(["torch", *(peer.package for peer in PEERS), "numpy"]))

SIZE_BYTES = 3 << 30
"""What the environment takes at most, with a torch for CPUs; one for CUDA takes more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """An interpreter, and which peers it has."""

    python: str
    versions: Mapping[str, str]
    """Of the packages that are there."""
    missing: Mapping[str, str] = field(default_factory=dict[str, str])
    """Packages that are not, and why."""

    @property
    def peers(self) -> list[Peer]:
        """Return those that can be measured."""
        needed = {"torch", "numpy"}
        if not needed <= self.versions.keys():
            return []
        return [peer for peer in PEERS if peer.package in self.versions]

    def has(self, package: str) -> bool:
        """Whether it has a package."""
        return package in self.versions


async def own_environment() -> Environment:
    """Return this process's, with those of the peers that happen to be there."""
    versions = await _versions(sys.executable)
    reason = "a short bench installs nothing"
    missing = {name: reason for name in PACKAGES if name not in versions}
    return Environment(python=sys.executable, versions=versions, missing=missing)


async def install(directory: Path, progress: StepProgress) -> Environment:
    """Return the peers' environment, making it where it is not there yet.

    A package that can't be had is missing then, and tried again the next time.
    """
    python = directory / "bin" / "python"
    if not _is_current(directory):
        progress.begin("making an environment for the peers")
        shutil.rmtree(directory, ignore_errors=True)
        if reason := await _run([sys.executable, "-m", "venv", str(directory)]):
            return Environment(
                python=str(python), versions={}, missing=dict.fromkeys(PACKAGES, reason)
            )
        (directory / _DONE).write_text(_stamp())
    versions = await _versions(str(python))
    missing: dict[str, str] = {}
    for package in PACKAGES:
        if package not in versions:
            progress.begin(f"installing {package}")
            if reason := await _run(_pip(python, package)):
                missing[package] = reason
        progress.advance(1)
    return Environment(python=str(python), versions=await _versions(str(python)), missing=missing)


def _pip(python: Path, package: str) -> list[str]:
    options = ["-q", "--no-input", "--disable-pip-version-check", "--retries", _RETRIES]
    return [str(python), "-m", "pip", "install", *options, "-c", str(CONSTRAINTS), package]


def _is_current(directory: Path) -> bool:
    mark = directory / _DONE
    return mark.exists() and mark.read_text() == _stamp()


def _stamp() -> str:
    """Return what changes where an environment is to be made anew."""
    text = f"{sys.executable} {sys.version} {CONSTRAINTS.read_text()}"
    return hashlib.sha256(text.encode()).hexdigest()


async def _versions(python: str) -> dict[str, str]:
    """Return the versions of the packages that an interpreter has."""
    out = await _output([python, "-I", "-c", _SAY_VERSIONS, *PACKAGES])
    versions: dict[str, str] = json.loads(out or "{}")
    return versions


_SAY_VERSIONS = """
import sys, json, importlib.metadata as metadata
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


async def _output(command: Sequence[str]) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, start_new_session=True
    )
    out, _ = await process.communicate()
    return out.decode() if process.returncode == 0 else ""


async def _run(command: Sequence[str]) -> str:
    """Run a command; return why it failed, or nothing."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, start_new_session=True
    )
    try:
        async with asyncio.timeout(_INSTALL_SECONDS):
            out, _ = await process.communicate()
    except TimeoutError:
        return f"took more than {_INSTALL_SECONDS:g} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return "" if process.returncode == 0 else _reason(out.decode(errors="replace"))


def _reason(text: str) -> str:
    """Return the line that says most: pip's first error, or else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines[-1:] or ["it said nothing"])[0]
