"""Engines that misbehave, imported by the zygotes of the tests beside this file."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pilotlight.store_node.engines import Emission, EngineSetup, Extension, Offer, Weights, Work
from pilotlight.store_node.errors import UnsupportedModel
from pilotlight.store_node.protocol import RequestId


class Quiet:
    """Does nothing, and that well; the others differ from it in one thing."""

    def __init__(self) -> None:
        self._running: list[Work] = []

    @classmethod
    def version(cls) -> str:
        return "1"

    @classmethod
    def preload(cls, checkpoints: Sequence[Path]) -> None:
        pass

    def prepare(self, setup: EngineSetup) -> None:
        pass

    def bind(self, weights: Weights) -> Offer:
        return Offer(concurrency=1, context_tokens=100, dtype="none")

    def admit(self, work: Work) -> None:
        self._running.append(work)

    def extend(self, extension: Extension) -> None:
        pass

    def cancel(self, request_id: RequestId) -> None:
        self._running.clear()

    def step(self) -> Sequence[Emission]:
        return ()

    @property
    def is_busy(self) -> bool:
        return bool(self._running)


class RefusesModel(Quiet):
    def prepare(self, setup: EngineSetup) -> None:
        raise UnsupportedModel("no such model\nis known")


class BreaksWhileBinding(Quiet):
    def bind(self, weights: Weights) -> Offer:
        raise ZeroDivisionError("a bug in the engine")


class BreaksInItsFirstStep(Quiet):
    def step(self) -> Sequence[Emission]:
        raise MemoryError("no room for keys and values")


class AllocatesBlocks(Quiet):
    def prepare(self, setup: EngineSetup) -> None:
        blocks: list[bytearray] = []
        while True:
            blocks.append(bytearray(1 << 20))


class AllocatesCrumbs(Quiet):
    def prepare(self, setup: EngineSetup) -> None:
        crumbs: dict[int, str] = {}
        while True:
            crumbs[len(crumbs)] = str(len(crumbs))


class Exits(Quiet):
    def prepare(self, setup: EngineSetup) -> None:
        sys.stderr.write("these are my last words\n")
        os._exit(3)


class NeverPrepared(Quiet):
    def prepare(self, setup: EngineSetup) -> None:
        sys.stderr.write("preparing for ever\n")
        time.sleep(600)


class WritesNonsense(Quiet):
    def prepare(self, setup: EngineSetup) -> None:
        os.write(_connection(), b"\xff" * 64)
        time.sleep(600)


class Snoops(Quiet):
    """Writes what it sees of its process into the checkpoint's folder."""

    def prepare(self, setup: EngineSetup) -> None:
        seen = {
            "descriptors": {name: _target(name) for name in os.listdir("/proc/self/fd")},
            "parent": os.getppid(),
            "cwd": os.getcwd(),
        }
        (setup.directory / "seen.json").write_text(json.dumps(seen))


class CanNotBePreloaded(Quiet):
    @classmethod
    def preload(cls, checkpoints: Sequence[Path]) -> None:
        raise UnsupportedModel("this engine needs hardware that is not here")


class Learns(Quiet):
    """Refuses all models, and says which checkpoints it was made ready for."""

    learned: ClassVar[list[str]] = []

    @classmethod
    def preload(cls, checkpoints: Sequence[Path]) -> None:
        cls.learned = [*cls.learned, *(each.name for each in checkpoints)]

    def prepare(self, setup: EngineSetup) -> None:
        raise UnsupportedModel(f"ready for {self.learned}")


class LeavesAThread(Quiet):
    @classmethod
    def preload(cls, checkpoints: Sequence[Path]) -> None:
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return "gone"


def _connection() -> int:
    return next(
        int(name) for name in os.listdir("/proc/self/fd") if _target(name).startswith("socket:")
    )
